#!/usr/bin/env bash
# Announces a release to canaryd, waits for its outcome, and says it in the words of the CI system it runs in: an annotation on
# GitHub, a plain line elsewhere. Exit code: canaryd's own, about the attempt that this run started (0 promoted: it became stable with
# 100 % in force; 10 rolled back, 11 undecided at the timeout, 12 aborted, 13 superseded, 1 and 2 an error). A release that was rolled
# back or aborted before is not started again: the code is that of its last attempt, and the reason says so.
# environment: CANARYD_URL, CANARYD_TOKEN or CANARYD_AUDIENCE, CANARYD_CA_FILE, SERVICE, VERSION or IMAGE, ENDPOINTS, TIMEOUT. canaryd has to be on the PATH.
set -u
args=("$SERVICE")
[ -n "${VERSION:-}" ] && args+=("$VERSION")
[ -n "${IMAGE:-}" ] && args+=(--image "$IMAGE")
[ -n "${ENDPOINTS:-}" ] && args+=(--endpoint "$ENDPOINTS")
release="$SERVICE ${VERSION:-${IMAGE:-}}"
said=$(mktemp) told=$(mktemp)
trap 'rm -f "$said" "$told"' EXIT
{ canaryd deploy "${args[@]}" --wait --timeout "${TIMEOUT:-2h}" 2>&1 1>&3 3>&- | tee "$told" >&2; exit "${PIPESTATUS[0]}"; } 3>&1 | tee "$said"
code=${PIPESTATUS[0]}
reason=$(tail -n 1 "$said")
[ -n "$reason" ] || reason=$(grep '^canaryd: ' "$told" | tail -n 1) # an error is on stderr
[ -n "$reason" ] || reason=$(tail -n 1 "$told")
case $code in
  0) outcome=promoted level=notice ;;
  10) outcome="rolled back" level=error ;;
  11) outcome=undecided level=warning ;;
  12) outcome=aborted level=error ;;
  13) outcome=superseded level=warning ;;
  *) outcome=failed level=error ;;
esac
if [ -n "${GITHUB_ACTIONS:-}" ]; then
  echo "::$level title=canaryd: $release $outcome::${reason//%/%25}"
  echo "outcome=$outcome" >>"${GITHUB_OUTPUT:-/dev/null}"
else
  echo "canaryd: $release $outcome: $reason"
fi
exit "$code"
