"""`bidiffsr serve`."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Annotated

from cyclopts import Parameter

from bidiffsr.cli.app import RUNNING, Running, app
from bidiffsr.cli.terminal import log, print_result
from bidiffsr.server.options import ServerOptions


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Serving(ServerOptions):
    """With a token that may come from the environment."""

    token: Annotated[str | None, Parameter(env_var="BIDIFFSR_TOKEN")] = None


DEFAULTS = Serving()


@app.command
def serve(
    *,
    model: Annotated[str, Parameter(name=["--model", "-n"])] = "default",
    options: Serving = DEFAULTS,
    running: Running = RUNNING,
) -> None:
    """Upscale over HTTP: a page for the browser, and an API for programs.

    `bidiffsr serve` prints an address; open it, and drop pictures on the page.

    `bidiffsr serve --host 0.0.0.0 --host-name pictures.example.org` is for others, too.

    Ctrl-C finishes the pictures at hand first; once more cancels them.

    Args:
        model: The name of a model that comes with bidiffsr, such as x4-small, or a model file.
            Default: the best of those that come with bidiffsr, for each picture's scale and
            quality.
    """
    from bidiffsr.server.run import serve as run
    from bidiffsr.upscaling.models import Models

    models = Models.load(model, **asdict(running))
    if options.token is None and not _is_loopback(options.host):
        log(f"anybody who reaches {options.host} can use this server; --token asks for a secret")
    run(models, options, model=model, listening=print_result)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
