import importlib
from pathlib import Path

for file in Path(__file__).parent.glob("[!_]*.py"):
    importlib.import_module(f"examples.foreign_speech.models.{file.stem}")
