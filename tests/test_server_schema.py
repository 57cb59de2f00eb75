"""The service against its own OpenAPI description, by schemathesis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from bidiffsr.server.app import create_app
from bidiffsr.server.options import ServerOptions
from bidiffsr.upscaling.models import Models
from served import listening
from tiny_model import tiny_upscaler

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

TOKEN = "s3cret"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = create_app(Models(tiny_upscaler()), ServerOptions(max_waiting=4, token=TOKEN))
    with listening(app) as address:
        yield address


def test_every_answer_is_as_described(url: str) -> None:
    description = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in description.get_all_operations()]
    assert len(operations) == 9
    for operation in operations:

        @settings(
            max_examples=10,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        @given(operation.as_strategy())
        def ask(case: Any) -> None:
            # What is a picture to the description need not be one to a decoder.
            case.call_and_validate(
                excluded_checks=[positive_data_acceptance],
                headers={"Authorization": f"Bearer {TOKEN}"},
            )

        ask()
