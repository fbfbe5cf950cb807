"""An OpenAI-compatible server on this machine, which does what a test wants, right or wrong."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text, first=None):
    told = {"content": [{"token": "x", "logprob": 0.0, "top_logprobs": first}]} if first else None
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": told}
    return 200, json.dumps({"object": "chat.completion", "choices": [choice]}), {}


class Server(ThreadingHTTPServer):
    """Gives `answers` (code, content, headers), the last one for ever; an answer may be a function of the handler that
    gives one, or None when it has answered itself."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.requests = [], []
        self.address = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request, client_address):
        """Clients leave, which needs no traceback."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), self.asked))
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(answer) and (answer := answer(self)) is None:
            return
        code, content, headers = answer
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content.encode())), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *args):
        pass
