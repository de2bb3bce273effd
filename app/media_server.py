"""A private media server for development: the system's nginx with its RTMP module, as ``deploy/nginx-rtmp.conf`` says.

Guides push RTMP to it, it asks our API who may, and serves what came as HLS. It lives as long as the program.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr

from app import embedded
from app.embedded import MissingServer
from app.processes import free_port
from kernel.settings import Settings

TEMPLATE = Path(__file__).parent.parent / "deploy" / "nginx-rtmp.conf"
RTMP_PORT = 1935
"""What programs that push take for granted, if it is free."""
_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")


def _nginx() -> tuple[str, Path]:
    """The system's nginx and its RTMP module. Raises MissingServer with the one command that brings them."""
    server = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    modules = [found for folder in _MODULES if (found := Path(folder) / "ngx_rtmp_module.so").exists()]
    if server is None or not modules:
        raise MissingServer(
            "nginx with its RTMP module is not installed: run `apt-get install -y nginx-light libnginx-mod-rtmp`, "
            "or leave the media server away."
        )
    return server, modules[0]


@asynccontextmanager
async def media_server(settings: Settings, api: str) -> AsyncIterator[Settings]:
    """Run it for the API at ``api``; yields ``settings`` with its addresses and a key of this checkout's own.

    Settings that name a media server are used as they are. Raises MissingServer, ServerFailed.
    """
    if settings.stream_push_url:
        yield settings
        return
    server, module = _nginx()
    state_dir = settings.state_dir.resolve()
    home = embedded.server_folder(embedded.home_of(state_dir) / "media")
    shutil.rmtree(home / "hls", ignore_errors=True)  # what a stream of the run before left
    for folder in ("hls", "tmp"):
        embedded.server_folder(home / folder)
    rtmp_port, http_port = free_port(RTMP_PORT), free_port()
    filled = {
        "module": module, "home": home, "api": api, "rtmp_port": rtmp_port, "http_port": http_port,
    }  # fmt: skip
    text = TEMPLATE.read_text()
    for name, value in filled.items():
        text = text.replace(f"{{{{{name}}}}}", str(value))
    config = home / "nginx.conf"
    config.write_text(text)
    embedded.given(config)
    key = embedded.secret(state_dir / "stream.key")
    log = state_dir / "log" / "media.log"
    log.touch()
    async with embedded.server_process([server, "-p", str(home), "-c", str(config)], log, "TERM") as process:

        async def probe() -> None:
            for port in (rtmp_port, http_port):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()

        await embedded.until_ready("nginx", process, log, probe)
        yield settings.model_copy(
            update={
                "stream_push_url": f"rtmp://127.0.0.1:{rtmp_port}/live",
                "stream_key": SecretStr(key),
                "stream_play_url": {
                    "hls": f"http://127.0.0.1:{http_port}/hls",
                    "rtmp": f"rtmp://127.0.0.1:{rtmp_port}/live",
                },
            }
        )
