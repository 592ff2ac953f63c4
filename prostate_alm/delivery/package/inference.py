"""What the inference config of a packed model names: one study through MONAI's evaluator to one answer in a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.inferers import Inferer

from prostate_alm.delivery.answers import answer_name, answer_to_json
from prostate_alm.delivery.package.described import DescribedModel
from prostate_alm.delivery.package.opened import open_described
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.delivery.predict import answer_reading, read_folder
from prostate_alm.delivery.scores import member_logits
from prostate_alm.results.mean_logits import MeanLogits
from prostate_alm.whole_files import write_text_atomically


def study_in(study_dir: str | None) -> list[dict[str, str]]:
    """Return what the dataset holds: the study in a folder.

    Raises:
        PackageError: there is no such folder.
    """
    if study_dir is None or not Path(study_dir).is_dir():
        raise PackageError("no_study", f"study_dir must be a folder, got {study_dir}. Give --study_dir FOLDER")
    return [{"study": study_dir}]


class ReadStudy:
    """Preprocessing: the study of a folder becomes its `reading`, and the `image` (1, C, X, Y, Z) that a network sees.

    A study that is refused has an image of NaN: whatever is made of its logits shows that it is none.

    Args:
        model: the packed model.
    """

    def __init__(self, model: DescribedModel) -> None:
        self._model = model
        opened = None if model.card.gland is None else open_described(model, name=model.card.name)
        self._localiser = None if opened is None else opened.localiser

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return `reading` and `image` of the folder `study`."""
        reading = read_folder(Path(data["study"]), self._model, localiser=self._localiser)
        grid = self._model.card.grid
        refused = torch.full((1 + len(grid.b_values_s_per_mm2), *grid.image_size), torch.nan)
        return {"reading": reading, "image": (refused if reading.image is None else reading.image)[None]}


class MemberLogits(Inferer):
    """Inferer: what each member of an ensemble says, logits (B, M, 1), or (B, M, K) of several classes."""

    def __call__(self, inputs: torch.Tensor, network: MeanLogits, *_: Any, **__: Any) -> torch.Tensor:
        """Return logits (B, M, K) of images (B, C, X, Y, Z)."""
        return member_logits(network, inputs)


class AnswerStudy:
    """Postprocessing: the logits of a study become its `answer`; a study that was refused stays so.

    Args:
        model: the packed model.
        target_tpr: of the operating point; None for the model's default.
    """

    def __init__(self, model: DescribedModel, target_tpr: float | None = None) -> None:
        self._model = model
        self._point = model.card.operating_point(target_tpr)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the data with their `answer`."""
        answer = answer_reading(data["reading"], self._model, data["pred"][0].cpu(), point=self._point).answer
        return {**data, "answer": answer}


class WriteAnswer:
    """Handler: write each answer as `<study>.json`.

    Args:
        output_dir: made where absent.

    Raises:
        PackageError: none is given.
    """

    def __init__(self, output_dir: str | None) -> None:
        if output_dir is None:
            raise PackageError("no_study", "output_dir must be a folder for the answer, got none. Give --output_dir")
        self._folder = Path(output_dir)

    def attach(self, evaluator: Engine) -> None:
        """Act after each study of `evaluator`."""
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, evaluator: Engine) -> None:
        """Act at the event.

        Raises:
            PackageError: there is another answer to the study.
        """
        answer = evaluator.state.output["answer"]
        self._folder.mkdir(parents=True, exist_ok=True)
        path, text = self._folder / answer_name(answer), answer_to_json(answer)
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise PackageError(
                "no_study", f"output_dir must hold no other answer to the study, got {path.name}. Move it away."
            )
        write_text_atomically(path, text)
