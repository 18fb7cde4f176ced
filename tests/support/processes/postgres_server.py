"""A PostgreSQL server of its own for a test: in a temporary directory, on loopback, with a password."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from own_process import free_port

_PLACES = ("/usr/lib/postgresql", "/usr/local/opt", "/opt/homebrew/opt")
_USERS = ("postgres", "nobody")
_START_SECONDS = 240


def postgres_programs() -> Path | None:
    """Return the newest directory with initdb and postgres, None where PostgreSQL is not installed."""
    found = [path.parent for place in _PLACES for path in Path(place).glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    newest = sorted(found, key=lambda folder: [int(part) for part in folder.parent.name.split(".") if part.isdigit()])
    return newest[-1] if newest else Path(on_path).resolve().parent if on_path else None


def reason_to_skip() -> str | None:
    """Return why no server can be started here, None where one can."""
    if postgres_programs() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed: pip install '.[postgresql]'"
    if os.geteuid() == 0 and _other_user() is None:
        return f"PostgreSQL does not run as root, and there is no user {' or '.join(_USERS)}"
    return None


class PostgresServer:
    """One server with empty databases; as root it runs as another user.

    Its data are not flushed to the disk: they end with the test.
    """

    user = "vavl"

    def __init__(self) -> None:
        programs = postgres_programs()
        assert programs is not None
        self._programs = programs
        # Not below pytest's directory, which the other user may not enter.
        self._folder = Path(tempfile.mkdtemp(prefix="vavl-postgres-"))
        self.password = secrets.token_hex(12)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def address(self, database: str) -> str:
        """Return the address of a database with user and password."""
        return f"postgresql://{self.user}:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Make the files of the server and start it; return when it takes connections."""
        data, password_file = self._folder / "data", self._folder / "password"
        password_file.write_text(self.password)
        for path in (self._folder, password_file):
            if (user := _other_user()) is not None:
                shutil.chown(path, user)
        self._run(
            "initdb", "--pgdata", str(data), "--username", self.user, "--pwfile", str(password_file),
            "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync",
        )  # fmt: skip
        password_file.unlink()
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    self._programs / "postgres", "-D", data, "-p", str(self.port), "-c", "listen_addresses=127.0.0.1",
                    "-c", f"unix_socket_directories={self._folder}", "-c", "fsync=off", "-c", "full_page_writes=off",
                ],
                stdout=log, stderr=log, start_new_session=True, user=_other_user(), cwd=self._folder,
            )  # fmt: skip
        self._wait()

    def create_database(self, name: str) -> str:
        """Make an empty database and return its address."""
        import psycopg

        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.address(name)

    def stop(self) -> None:
        """End the server at once and remove its files."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self) -> None:
        import psycopg

        assert self._process is not None
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.address("postgres")):
                return
            time.sleep(0.1)
        raise AssertionError(f"PostgreSQL did not start:\n{(self._folder / 'log').read_text()[-2000:]}")

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [self._programs / program, *words],
            capture_output=True, text=True, check=False, user=_other_user(), cwd=self._folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def _other_user() -> str | None:
    """Return the user to run as when this process is root, None where it is not, or nobody is there."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in _USERS if name in known), None)
