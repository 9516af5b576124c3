"""The list of models as OpenAI's clients read it: the one that is served."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeprune.runtime.bundle import Bundle
from edgeprune.service.requests import MODELS, Refused
from edgeprune.service.responses import json_response
from edgeprune.service.settings import ServiceSettings


def served_name(bundle: Bundle, settings: ServiceSettings) -> str:
    """The name by which clients ask for the model: as it was started, else its folder's."""
    return settings.served_name or bundle.folder.resolve().name


def check_name(bundle: Bundle, settings: ServiceSettings, asked: str) -> None:
    """Refuse to answer for another model.

    Raises:
        Refused: 404, with the name of the one that is served.
    """
    served = served_name(bundle, settings)
    if asked != served:
        raise Refused(
            404,
            f"There is no model {asked[:80]!r} here: ask for {served!r}, or start the service with "
            "--served-name and yours.",
            code="model_not_found",
        )


def model_routes(bundle: Bundle, settings: ServiceSettings) -> list[Route]:
    """The list, and the model by its name."""
    about: dict[str, Any] = {
        "id": served_name(bundle, settings),
        "object": "model",
        "created": int(bundle.model_path.stat().st_mtime),
        "owned_by": "edgeprune",
    }

    async def listed(request: Request) -> Response:
        return json_response({"object": "list", "data": [about]})

    async def one(request: Request) -> Response:
        check_name(bundle, settings, request.path_params["name"])
        return json_response(about)

    return [Route(MODELS, listed), Route(f"{MODELS}/{{name:path}}", one)]
