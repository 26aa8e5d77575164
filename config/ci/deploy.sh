#!/usr/bin/env bash
# Announces a release to canaryd, waits for its fate, and says it in the words of the CI system it runs in: an annotation on
# GitHub, plain lines elsewhere. Exit code: canaryd's own (0 promoted, 10 rolled back, 11 undecided, 12 aborted, 13 superseded).
# environment: CANARYD_URL, CANARYD_TOKEN, SERVICE, VERSION or IMAGE, ENDPOINTS, TIMEOUT. canaryd has to be on the PATH.
set -u
args=("$SERVICE")
[ -n "${VERSION:-}" ] && args+=("$VERSION")
[ -n "${IMAGE:-}" ] && args+=(--image "$IMAGE")
[ -n "${ENDPOINTS:-}" ] && args+=(--endpoint "$ENDPOINTS")
said=$(mktemp)
trap 'rm -f "$said"' EXIT
canaryd deploy "${args[@]}" --wait --timeout "${TIMEOUT:-2h}" | tee "$said"
code=${PIPESTATUS[0]}
reason=$(tail -n 1 "$said")
case $code in
  0) outcome=promoted level=notice ;;
  10) outcome="rolled back" level=error ;;
  11) outcome=undecided level=warning ;;
  12) outcome=aborted level=error ;;
  13) outcome=superseded level=warning ;;
  *) outcome=failed level=error ;;
esac
if [ -n "${GITHUB_ACTIONS:-}" ]; then
  echo "::$level title=canaryd: $SERVICE ${VERSION:-$IMAGE} $outcome::$reason"
  echo "outcome=$outcome" >>"${GITHUB_OUTPUT:-/dev/null}"
else
  echo "canaryd: $SERVICE ${VERSION:-${IMAGE:-}} $outcome: $reason"
fi
exit $code
