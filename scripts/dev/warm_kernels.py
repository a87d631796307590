"""Jupyter kernels that start in a fraction of a second: forked from a process that has imported the big libraries already.

Most notebooks here finish within seconds, and most of these went into importing torch, diffusers and their like, over and over.
So there are three small roles, all in this file:

    warm_kernels   what run_notebooks.py calls: starts a server, and puts a kernelspec of its own in front of the plain one
    server         imports LIBRARIES, then forks a child for each connection, and the child becomes a kernel
    client         the command of that kernelspec, and what Jupyter takes for the kernel: it hands its arguments, folder,
                   environment and output streams to the server, then lives exactly as long as the kernel does

Every notebook still gets a process and a namespace of its own. Only other people's libraries are imported beforehand, never
jointdit: each kernel imports, and coverage measures, all of the package. The server runs no operation of any library and has one
thread, or it refuses to serve, because a fork takes along only the thread that asks for it. Where that cannot be had (no Linux, a
library that starts threads), kernels are plain ones, only slower.
"""
import contextlib
import json
import os
import signal
import socket
import sys
import time

LIBRARIES = """numpy scipy.signal scipy.ndimage torch torch.optim torch.utils.checkpoint torch.utils.flop_counter safetensors.torch
pydantic yaml typer rich.console tqdm.auto av soundfile PIL.Image matplotlib.figure matplotlib.font_manager pandas gradio huggingface_hub
diffusers.models.autoencoders.autoencoder_kl diffusers.models.autoencoders.autoencoder_kl_temporal_decoder open_clip
transformers.models.speecht5.modeling_speecht5 fastcore.all fastcore.test coverage ipykernel.ipkernel ipykernel.kernelapp""".split()


def client(address: str, args: list) -> None:
    "Ask for a kernel, then wait until it has ended; killing this process ends it."
    for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_IGN)          # Jupyter's hints beside its request to end
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [b"."], [0, 1, 2])
        server.sendall(json.dumps([args, os.getcwd(), dict(os.environ)]).encode() + b"\n")
        server.recv(1)                                      # nothing ever comes: it returns when the kernel is gone


def server(address: str, parent: int) -> socket.socket:
    "Serve until the parent is gone. Returns only in forked children, each with its connection."
    import atexit, gc, importlib
    if sys.platform != "linux": sys.exit("no Linux: kernels are plain ones")
    atexit.register(os._exit, 0)                            # first in, so called last: a kernel that ends need not take libraries down
    signal.signal(signal.SIGINT, signal.SIG_IGN)            # Ctrl-C reaches the parent, which ends this
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"              # every kernel has it, and matplotlib reads it now
    for name in LIBRARIES:
        with contextlib.suppress(ImportError): importlib.import_module(name)
    if len(os.listdir("/proc/self/task")) > 1: sys.exit("a library started threads: kernels are plain ones")
    gc.freeze()                                             # collections in children leave alone what is shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)           # nobody waits for children
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address + ".new")
        door.listen()
        door.settimeout(1)
        os.rename(address + ".new", address)                # there when it can be asked, not before
        while os.getppid() == parent:
            with contextlib.suppress(TimeoutError):
                asked, _ = door.accept()
                if os.fork() == 0: return asked
                asked.close()
    sys.exit()


def kernel(asked: socket.socket) -> None:
    "Become what a fresh `python -m ipykernel_launcher` is, with what the client at the other end was started with."
    import threading, numpy
    from ipykernel.kernelapp import IPKernelApp
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asked.setblocking(True)
    streams = socket.recv_fds(asked, 1, 3)[1]
    args, folder, environment = json.loads(asked.makefile().readline())
    for i, fd in enumerate(streams): os.dup2(fd, i), os.close(fd)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    numpy.random.seed()                                     # not the numbers of every other kernel; random does this by itself
    if "coverage" in sys.modules: sys.modules["coverage"].process_startup()             # measures where the environment asks for it

    def watch(): asked.recv(1), os.killpg(0, signal.SIGKILL)
    threading.Thread(target=watch, daemon=True).start()     # the end of the client is the end of the kernel, and of what it started
    sys.argv = ["ipykernel_launcher.py", *args, f"--IPKernelApp.parent_handle={os.getppid()}"]
    IPKernelApp.launch_instance()


@contextlib.contextmanager
def warm_kernels():
    "Inside, kernels named python3 that this process and its children start are forked ones, where that can be had."
    import subprocess, tempfile
    with tempfile.TemporaryDirectory() as folder:
        here, address, spec = os.path.abspath(__file__), f"{folder}/server", f"{folder}/kernels/python3/kernel.json"
        plain = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}  # kernels are measured, not the server
        serves = subprocess.Popen([sys.executable, here, "server", address, str(os.getpid())], env=plain)
        try:
            while serves.poll() is None and not os.path.exists(address): time.sleep(.05)
            if serves.poll() is None:
                os.makedirs(os.path.dirname(spec))
                argv = [sys.executable, "-I", "-S", here, "client", address, "-f", "{connection_file}"]
                with open(spec, "w") as f: json.dump(dict(display_name="warm", language="python", argv=argv), f)
                os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_PATH")]))
            yield
        finally:
            serves.terminate()
            serves.wait()


if __name__ == "__main__":
    if sys.argv[1] == "client": client(sys.argv[2], sys.argv[3:])
    else:
        sys.path.pop(0)                                     # this folder, where a kernel would not look
        kernel(server(sys.argv[2], int(sys.argv[3])))
