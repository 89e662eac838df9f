"""The protocols."""

from cryopares_plugin.protocols.protocol_continue import ProtCryoparesContinue
from cryopares_plugin.protocols.protocol_finetune import ProtCryoparesFinetune
from cryopares_plugin.protocols.protocol_import_model import ProtCryoparesImportModel
from cryopares_plugin.protocols.protocol_infer import ProtCryoparesInfer
from cryopares_plugin.protocols.protocol_pretrain import ProtCryoparesPretrain
from cryopares_plugin.protocols.protocol_train import ProtCryoparesTrain

__all__ = [
    "ProtCryoparesContinue",
    "ProtCryoparesFinetune",
    "ProtCryoparesImportModel",
    "ProtCryoparesInfer",
    "ProtCryoparesPretrain",
    "ProtCryoparesTrain",
]
