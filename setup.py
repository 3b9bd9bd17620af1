"""Which folder holds which package.

The top-level folders are layers, and every one of them is a part of the one package `onnxprune`: `passes/` is imported
as `onnxprune.passes`. pyproject.toml can state that mapping but then wants every sub-package listed by hand, and a line
forgotten would leave a folder out of the wheel without a word. So the list is computed here, and nothing else is.
"""

from setuptools import find_packages, setup

LAYERS = {
    "onnxprune": "onnxprune",
    "onnxprune.passes": "passes",
    "onnxprune.cli": "cli",
    "onnxprune.models_zoo": "models_zoo",
}


def _below(layer: str, folder: str) -> list[str]:
    return [f"{layer}.{name}" for name in find_packages(folder)]


PACKAGES = [name for layer, folder in LAYERS.items() for name in (layer, *_below(layer, folder))]

setup(package_dir=LAYERS, packages=PACKAGES)
