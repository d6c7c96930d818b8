"""A chat service on this machine that follows a script: the judge of tests."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Reply = tuple[int, Any]
"""A status, and a body: a text is a judge's own words, anything else the whole JSON document."""


def shown(body: dict[str, Any]) -> dict[str, str]:
    """What a judge is shown, by its marks: input, expected, and answer or A and B."""
    user = body["messages"][1]["content"]
    return dict(re.findall(r"<(\w+)-[0-9a-f]{12}>\n(.*?)\n</\1-[0-9a-f]{12}>", user, re.S))


def fair(body: dict[str, Any]) -> Reply:
    """5 for the expected answer and 1 for any other; of two answers the one that is expected, else a tie."""
    texts = shown(body)
    if "answer" in texts:
        return 200, json.dumps({"reason": "compared", "score": 5 if texts["answer"] == texts["expected"] else 1})
    right = [name for name in ("A", "B") if texts[name] == texts["expected"]]
    return 200, json.dumps({"reason": "compared", "better": right[0] if len(right) == 1 else "tie"})


@dataclass
class JudgeService:
    """The service; `asked` has the bodies of all calls, in their order, and `headers` what came with them."""

    script: Callable[[dict[str, Any]], Reply] = fair
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def __enter__(self) -> Self:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                service.asked.append(body)
                service.headers.append({**self.headers, "path": self.path})
                status, reply = service.script(body)
                if isinstance(reply, str) and status == 200:
                    message = {"role": "assistant", "content": reply}
                    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
                    reply = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
                elif isinstance(reply, str):
                    reply = {"error": {"message": reply, "type": "invalid_request_error", "param": None, "code": None}}
                content = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"
