"""A packed model whose weights are random, a study to point it at, and the real Orthanc."""

from orthanc import own_temporary_folder, running, server, start_server  # noqa: F401
from packs import ensemble_folder, make_ensemble, packed_file, packed_model, phantom_study  # noqa: F401
