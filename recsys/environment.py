"""What a process runs in, and the record of a training that a bundle keeps: enough to do it again."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from recsys.config import shown_uri
from recsys.errors import InputError

PACKAGES = ("recsys", "torch", "pytorch-lightning", "numpy", "polars", "narwhals", "annoy", "mlflow")
"""The packages whose versions are recorded."""


class Environment(BaseModel):
    """Command and versions of a process.

    Attributes:
        command: the words of the command line, without passwords.
        python: its version.
        platform: operating system and processor.
        packages: name -> version, of those of `PACKAGES` that are installed.
        git_commit: of the working folder, where that is under git.
    """

    model_config = ConfigDict(frozen=True)

    command: tuple[str, ...]
    python: str
    platform: str
    packages: dict[str, str]
    git_commit: str | None = None

    @property
    def shell_line(self) -> str:
        """The command as it is typed into a shell."""
        if not self.command:
            return ""
        first, *arguments = self.command
        program = Path(first)
        if program.name == "cli.py" and program.parent.name == "recsys":
            words = ["recsys"]
        elif program.name == "__main__.py":
            words = ["python", "-m", program.parent.name]
        elif program.suffix == ".py":
            words = ["python", first]
        else:
            words = [program.name]
        return shlex.join([*words, *arguments])

    @property
    def versions(self) -> dict[str, str]:
        """Python, packages, platform and commit by name, as a table shows them."""
        found = {"python": self.python, **self.packages, "platform": self.platform}
        return found | ({"git commit": self.git_commit} if self.git_commit else {})


class TrainingRecord(BaseModel):
    """How a bundle came to be, as its manifest tells it.

    Attributes:
        environment: of the process that trained.
        started_at: when it began.
        seconds: wall time of the training and its validations; of a resumed one, since it was resumed.
    """

    model_config = ConfigDict(frozen=True)

    environment: Environment
    started_at: AwareDatetime
    seconds: float

    @classmethod
    def read(cls, content: object, where: Path) -> TrainingRecord:
        """A record from the JSON of a manifest.

        Raises:
            InputError: it is not one.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, ("training", *first["loc"])))
            raise InputError(
                f"{where}: `{place}` cannot be read ({first['msg']}); the manifest was changed by hand: copy "
                "the bundle anew or train again"
            ) from error


def environment() -> Environment:
    """Command and versions of this process."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return Environment(
        command=tuple(shown_uri(word) for word in sys.argv),
        python=platform.python_version(),
        platform=platform.platform(),
        packages=packages,
        git_commit=_git_commit(),
    )


def _git_commit() -> str | None:
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
