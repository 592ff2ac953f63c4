"""What the inference config of a packed model runs: one study, one answer in a file."""

from pathlib import Path

from prostate_alm.delivery.answers import answer_name, answer_to_json
from prostate_alm.delivery.package.archive import PackageError
from prostate_alm.delivery.package.opened import open_package
from prostate_alm.delivery.package.trust import chosen_trust
from prostate_alm.training.settings import check_command_line, exit_on_usage_error
from prostate_alm.whole_files import write_text_atomically


def answer_study(
    bundle_root: str, *, study_dir: str | None, output_dir: str | None, target_tpr: float | None = None
) -> Path:
    """Answer the study in a folder and write the answer as `<study>.json` into a folder.

    Ends the process with exit code 2 and one line on stderr when an argument or the model is wrong.

    Args:
        bundle_root: folder of the unpacked model.
        study_dir: folder of the study.
        output_dir: made where absent.
        target_tpr: of the operating point; None for the model's default.

    Returns:
        The file.
    """
    return exit_on_usage_error(lambda: _answer(Path(bundle_root), study_dir, output_dir, target_tpr))


def _answer(bundle_root: Path, study_dir: str | None, output_dir: str | None, target_tpr: float | None) -> Path:
    from prostate_alm.delivery.predict import predict_folder  # reads images, which the network alone does not need

    check_command_line()
    if study_dir is None or output_dir is None or not Path(study_dir).is_dir():
        raise PackageError(
            "no_study", "study_dir and output_dir must be folders, got none. Give --study_dir, --output_dir"
        )
    model = open_package(bundle_root, trust=chosen_trust(None))
    answer = predict_folder(Path(study_dir), model, target_tpr=target_tpr).answer
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / answer_name(answer), answer_to_json(answer)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise PackageError(
            "no_study", f"output_dir must hold no other answer to the study, got {path.name}. Move it away."
        )
    write_text_atomically(path, text)
    return path
