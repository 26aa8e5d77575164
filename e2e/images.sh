#!/usr/bin/env bash
# The images of docker-compose.e2e.yml: canaryd's and the service's from this tree; Envoy's and Prometheus' from their
# registry, or, where that is not reached, stand-ins under the same names from the binaries on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
DOCKER_GID=$(stat -c %g /var/run/docker.sock)
export DOCKER_GID

CGO_ENABLED=0 "${GO:-go}" build -trimpath -ldflags "-s -w" -o bin/service ./e2e/service
docker-compose -f docker-compose.e2e.yml build canaryd v1
for v in v2 v3 v4; do docker tag canaryd/service:v1 "canaryd/service:$v"; done

standin() { # image, program, where it lies in the image, more paths of the image's; then settings as in a Dockerfile
  local image=$1 program=$2 place=$3 dirs=$4 root change=()
  shift 4
  docker image inspect "$image" >/dev/null 2>&1 && return
  timeout 20 docker pull -q "$image" >/dev/null 2>&1 && return
  echo "no registry is reached: $image is a stand-in made of $program" >&2
  root=$(mktemp -d)
  mkdir -p "$root$(dirname "$place")" "$root/tmp" "$root/etc"
  cp -L "$program" "$root$place"
  ldd "$program" | grep -o '/[^ ]*' | while read -r lib; do
    mkdir -p "$root$(dirname "$lib")"
    cp -L "$lib" "$root$lib"
  done
  for d in $dirs; do mkdir -p "$root$d"; chown 65534:65534 "$root$d"; done
  chmod 1777 "$root/tmp"
  for c in "$@"; do change+=(--change "$c"); done
  tar -C "$root" -c . | docker import "${change[@]}" - "$image" >/dev/null
  rm -r "$root"
}

envoy=$(ls .tools/envoy-1.40.0/lib/python3*/site-packages/envoy/_bin/envoy)
standin envoyproxy/envoy:v1.40.0 "$envoy" /usr/local/bin/envoy "/etc/envoy"
standin prom/prometheus:v2.42.0 "$(command -v prometheus)" /bin/prometheus "/etc/prometheus /prometheus" \
  "USER 65534" "WORKDIR /prometheus" "VOLUME /prometheus" 'ENTRYPOINT ["/bin/prometheus"]' \
  'CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]'
