"""The OpenAPI document is true: schemathesis sends what it allows and what it does not, and checks every answer."""

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import KEY, running
from waiting import TIMEOUT

pytestmark = [pytest.mark.any_backend, pytest.mark.integration]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
PLAN = hypothesis.settings(
    max_examples=10,
    derandomize=True,  # the same requests in every run
    database=None,
    deadline=None,
    suppress_health_check=[*hypothesis.HealthCheck],
)


@pytest.mark.filterwarnings("ignore")  # of libraries that schemathesis brings
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize("key", ["", KEY], ids=["without keys", "with keys"])
@pytest.mark.parametrize("weights", ["convnext_mini.shapes", "convnext_mini.digits"])
def test_responses_match_their_schemas(weights, key, mode, index_folder, tmp_path):
    index = ["--index", f"shapes={index_folder}"] if weights.endswith("shapes") else []
    headers = {"Authorization": f"Bearer {KEY}"} if key else {}
    with running(tmp_path / "log.txt", "--model", weights, *index, key=key) as (address, _):
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        for operation in operations:
            if mode is GenerationMode.NEGATIVE and operation.method == "get":
                continue  # There is nothing, or a text, to get wrong.

            @PLAN
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def check(case):
                case.call_and_validate(headers=headers, checks=CHECKS, timeout=TIMEOUT)

            check()
    assert len(operations) >= 10
