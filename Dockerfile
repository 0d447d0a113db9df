# The server on a CPU, on OpenVINO alone, from the wheel:  make wheel && docker build --tag convnext-keras .
# Keys come from a file or the environment at run time, never from the image.
FROM python:3.13-slim
ENV KERAS_BACKEND=openvino CONVNEXT_KERAS_CACHE=/cache HF_HOME=/cache/hub
COPY dist/*.whl /tmp/
RUN pip install --no-cache-dir "$(ls /tmp/convnext_keras-*.whl)[openvino,server]" \
    && useradd --create-home server && mkdir /cache && chown server /cache
USER server
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --start-period=300s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/ready')"]
ENTRYPOINT ["convnext-keras", "serve", "--host", "0.0.0.0", "--engine", "openvino"]
