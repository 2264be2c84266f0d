"""EC2 for tests: moto's server, and before it what moto cannot do: places without room, client tokens, a cut answer."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Final
from urllib.parse import parse_qs

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

ERROR: Final = """<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>{code}</Code><Message>{code} here</Message></Error></Errors>
<RequestID>7a62c49f-347e-4fc4-9331-6e8eEXAMPLE</RequestID></Response>"""

Start = Callable[..., Any]


class FakeEc2:
    """`full`: answers RunInstances for (market, type, subnet) with an error code, empty to let it be made."""

    def __init__(self) -> None:
        self.full: Callable[[str, str, str], str] = lambda *_: ""
        self.asked: list[tuple[str, str, str]] = []
        self.tokens: list[str] = []
        self.made = threading.Event()
        self.answers = threading.Event()  # while it is not set, answers of RunInstances are held back
        self.answers.set()
        self.silent = False  # what is made is not told
        self._app = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        said = {key: values[0] for key, values in parse_qs(body.decode(errors="replace")).items()}
        if said.get("Action") != "RunInstances" or "NetworkInterface.1.SubnetId" not in said:
            return self._app(environ, start)  # type: ignore[no-any-return]
        market = said.get("InstanceMarketOptions.MarketType", "on-demand")
        place = (market, said["InstanceType"], said["NetworkInterface.1.SubnetId"])
        self.asked.append(place)
        is_new = said["ClientToken"] not in self.tokens
        self.tokens.append(said["ClientToken"])
        code = self.full(*place)
        if code:
            status = "400 Bad Request" if code == "InvalidParameterValue" else "500 Internal Server Error"
            start(status, [("Content-Type", "text/xml")])
            return [ERROR.format(code=code).encode()]
        if self.silent:
            if is_new:
                list(self._app(environ, lambda *_: None))
            start("503 Service Unavailable", [("Content-Type", "text/xml")])
            return [ERROR.format(code="Unavailable").encode()]
        answer = list(self._app(environ, start))
        self.made.set()
        self.answers.wait(30)
        return answer


@contextmanager
def served(cloud: FakeEc2) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, cloud, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
