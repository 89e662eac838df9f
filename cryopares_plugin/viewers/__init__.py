"""What "Analyze results" opens."""

from cryopares_plugin.viewers.form_viewer import CryoparesFormViewer
from cryopares_plugin.viewers.infer_viewer import CryoparesInferViewer
from cryopares_plugin.viewers.model_viewer import CryoparesModelViewer

__all__ = ["CryoparesFormViewer", "CryoparesInferViewer", "CryoparesModelViewer"]
