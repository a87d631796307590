# JointDiT on a bare Python image. PyAV brings its own FFmpeg; libgl1 and libglib2.0-0 are for OpenCV (scene detection).
#   docker build -t jointdit .
#   docker run --rm -v "$PWD/outputs:/app/outputs" jointdit                       make demo: a trained model and a page with clips
#   docker run --rm -p 7860:7860 -v "$PWD/checkpoints:/app/checkpoints" jointdit python scripts/ui/app.py --host 0.0.0.0
#   docker run --rm --gpus all ...                                                build with the argument below for CUDA
FROM python:3.11-slim

RUN apt-get update \
 && apt-get install -y --no-install-recommends make git libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /app
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 JUPYTER_PLATFORM_DIRS=1

# The CPU build of torch by default; for a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY pyproject.toml constraints.txt README.md ./
COPY jointdit/__init__.py jointdit/__init__.py
RUN python -m venv .venv \
 && .venv/bin/pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt -e .

COPY . .
RUN .venv/bin/pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt -e . \
 && touch .venv/.installed
ENV PATH=/app/.venv/bin:$PATH

EXPOSE 7860
CMD ["make", "demo"]
