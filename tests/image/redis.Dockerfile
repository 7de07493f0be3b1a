# Stands for the redis:7 of docker/compose.yaml, from Debian's package: no registry is asked.
ARG DEBIAN
FROM debian:${DEBIAN}-slim
RUN apt-get update && apt-get install --yes --no-install-recommends redis-server
WORKDIR /data
CMD ["redis-server"]
