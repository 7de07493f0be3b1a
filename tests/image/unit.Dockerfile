# A machine with systemd and what `make install` put into the build stage of docker/Dockerfile.
# scripts/image-check.sh builds it in demo/ and boots it; unit.sh is what it does then.
ARG DEBIAN
FROM recalld-build AS build
FROM debian:${DEBIAN}-slim
COPY --from=build /out /
RUN apt-get update && apt-get install --yes --no-install-recommends curl redis-server systemd systemd-sysv $(cat /packages)
COPY . /demo
RUN recallctl bundle build --weights /demo/debian-mind.safetensors --items /demo/items.tsv \
    --histories /demo/behaviour.tsv --engine faiss --factory Flat --shards 2 --name demo --version 1 --out /srv/demo
RUN install -d -m 700 /etc/credstore && echo s3cret >/etc/credstore/recalld.admin-token && \
    chmod 600 /etc/credstore/recalld.admin-token && \
    sed -i -e 's|^paths =$|paths = /srv/demo|' \
        -e 's|^token_file =$|token_file = /run/credentials/recalld.service/recalld.admin-token|' /etc/recalld/recalld.ini && \
    printf '[Service]\nType=oneshot\nExecStart=/unit.sh\n[Install]\nWantedBy=multi-user.target\n' \
        >/etc/systemd/system/check.service && \
    systemctl enable check.service
