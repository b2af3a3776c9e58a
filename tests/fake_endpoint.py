"""A local endpoint that answers as a test tells it."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Answers each request by the next of `answers`: (status, body, headers, delay)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.requests = [], []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(length))
        self.server.requests.append((self.path, dict(self.headers), body))
        number = min(len(self.server.requests), len(self.server.answers)) - 1
        status, body, headers, delay = self.server.answers[number]
        time.sleep(delay)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    def log_message(self, *_):
        pass


def said(text, tokens=(100, 10)):
    used = dict(zip(("prompt_tokens", "completion_tokens"), tokens, strict=True))
    return 200, {"choices": [{"message": {"content": text}}], "usage": used}, {}, 0


def failing(status, message="no", **headers):
    return status, {"error": {"message": message}}, headers, 0
