"""Ten members that start at once on a store that nobody has made: python tracking_writer.py URI FOLDER."""

import json
import multiprocessing
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

from prostate_alm import tracking

WRITERS, EPOCHS, EXPERIMENT = 10, 20, "stress"
METRICS = ("val_auc", "val_loss", "train_loss")


def write(uri: str, folder: Path, *, member: int, barrier: Barrier) -> None:
    barrier.wait()
    tracking.prepare_store(uri, EXPERIMENT)
    name = f"member-{member:02d}"
    new = tracking.NewRun(EXPERIMENT, f"ensemble-{member}", name, {"number": str(member)}, folder=folder / name)
    run = tracking.start_member_run(new, tracking_uri=uri, flush_interval_s=0)
    run.log_params({"member": member, "mu0": 0.2})
    rows: list[dict[str, float]] = []
    for step in range(1, EPOCHS + 1):
        rows.append({"step": float(step), **dict.fromkeys(METRICS, member + step / 100)})
        run.log_epochs(rows)
    (folder / name).mkdir()
    files = {
        "config.json": json.dumps({"settings": {"member": member, "mu0": 0.2}}),
        "predictions.csv": f"member {member}\n",
        "metrics.json": json.dumps({"test": {"auc": member / 10}}),
    }
    for file, content in files.items():
        (folder / name / file).write_text(content)
    run.finish()
    if not run.is_tracked:
        raise SystemExit(f"member {member} lost its store")


def main(uri: str, folder: Path) -> int:
    context = multiprocessing.get_context("fork")  # mlflow is imported once, which takes longer than all the writing
    barrier = context.Barrier(WRITERS)
    writers = [
        context.Process(target=write, args=(uri, folder), kwargs={"member": member, "barrier": barrier})
        for member in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    return sum(writer.exitcode != 0 for writer in writers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
