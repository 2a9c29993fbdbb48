"""A chat endpoint on this machine that gives the replies of a script, in order."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

CUT = "length"  # why a reply ended that reached its limit


@contextmanager
def scripted_chat(replies: list[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """(its address, the prompts it was sent so far). replies: each a text and why it ended, "stop" or
    `CUT`; after the last one it answers with the status 500."""
    left, asked = list(replies), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body["messages"][-1]["content"])
            text, reason = left.pop(0) if left else ("", None)
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": reason}
            usage = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 1)
            said = json.dumps({
                "id": "0", "object": "chat.completion", "created": 0, "model": body["model"],
                "choices": [choice], "usage": usage,
            }).encode()  # fmt: skip
            self.send_response(200 if reason else 500)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
