"""The table of the REST API says what is served, no more and no less."""

import re
from pathlib import Path

from tests.samples.http import open_site

TABLE = Path(__file__).parents[2] / "docs" / "rest-api.md"
ROW = re.compile(r"\| `(\w+) (\S+)` \| (\w+) \| (served|not yet|not|an addition) \|")


async def test_the_table_tells_of_every_operation_by_its_id(tmp_path: Path) -> None:
    rows = [found.groups() for line in TABLE.read_text(encoding="utf-8").splitlines() if (found := ROW.match(line))]
    told = {
        (method.lower(), re.sub(r"\{\w+\}", "{}", path), name)
        for method, path, name, how in rows
        if not how.startswith("not")
    }
    async with open_site(tmp_path) as site:
        document = (await site.client.get("/api/v1/openapi.json")).json()
    served = {
        (method, re.sub(r"\{\w+\}", "{}", path.removeprefix("/api/v1")), operation["operationId"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert told == served
    assert len(rows) > len(served)


async def test_the_document_says_what_proves_who_calls_and_what_a_refusal_looks_like(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        document = (await site.client.get("/api/v1/openapi.json")).json()
        scheme = document["components"]["securitySchemes"]["Bearer"]
        assert (scheme["type"], scheme["scheme"], document["security"]) == ("http", "bearer", [{"Bearer": []}])
        for path, operations in document["paths"].items():
            for operation in operations.values():
                needs_none = operation["operationId"] in ("FirstRun", "Login")
                assert operation.get("security") == ([{}] if needs_none else None)
                refusals = {status: said for status, said in operation["responses"].items() if status >= "400"}
                assert {"400", "401"} <= refusals.keys()
                assert ("404" in refusals) == ("{" in path)
                for said in refusals.values():
                    assert said["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
