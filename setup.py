"""Which folder holds which package.

The top-level folders are layers, and every one of them is a part of the one package `onnxprune`: `passes/` is imported as
`onnxprune.passes`. pyproject.toml can state that mapping but then wants every sub-package listed by hand; a forgotten line
would leave a folder out of the wheel without a word. So the list is computed here, and nothing else is.
"""

from setuptools import find_packages, setup

LAYERS = {
    "onnxprune": "onnxprune",
    "onnxprune.passes": "passes",
    "onnxprune.cli": "cli",
    "onnxprune.models_zoo": "models_zoo",
}

setup(
    package_dir=LAYERS,
    packages=[
        name
        for layer, folder in LAYERS.items()
        for name in [layer, *(f"{layer}.{sub}" for sub in find_packages(folder))]
    ],
)
