#!/bin/sh
# Starts {{ runner_name }}: fetches its install script and runs it.
set -eu
umask 077
token={{ token | sh }}
metadata={{ metadata_url | sh }}
callback={{ callback_url | sh }}
{% for name in environment %}
export {{ name }}={{ environment[name] | sh }}
{% endfor %}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}
{% if certificates %}

# Debian's folder and Red Hat's. An image that has neither trusts whom it trusts.
trust() {
  if [ -d /usr/local/share/ca-certificates ]; then
    as_root tee "/usr/local/share/ca-certificates/hostler-$1.crt" >/dev/null
  elif [ -d /etc/pki/ca-trust/source/anchors ]; then
    as_root tee "/etc/pki/ca-trust/source/anchors/hostler-$1.pem" >/dev/null
  fi
}
number=0
{% for one in certificates %}
number=$((number + 1))
printf '%s' {{ one | sh }} | trust $number
{% endfor %}
if command -v update-ca-certificates >/dev/null; then
  as_root update-ca-certificates >/dev/null
elif command -v update-ca-trust >/dev/null; then
  as_root update-ca-trust
fi
{% endif %}

# The token goes to curl by standard input, so that no process list shows it: a body must come as an argument.
with_token() {
  printf 'header = "Authorization: Bearer %s"\n' "$token" | curl --config - --silent --show-error "$@"
}

fail() {
  with_token --output /dev/null --retry 5 --retry-connrefused --max-time 30 -H 'Content-Type: application/json' \
    --data "{\"status\":\"failed\",\"message\":\"$1\"}" "$callback/status" || true
  exit 1
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
with_token --fail --retry 5 --retry-delay 1 --retry-connrefused --max-time 60 \
  --output "$folder/install" "$metadata/install-script" || fail "the install script could not be fetched"
# By the interpreter that its first line names; the folder may be one from which nothing is executed.
interpreter=$(sed -n '1s/^#![[:space:]]*//p' "$folder/install")
${interpreter:-/bin/sh} "$folder/install" || fail "the install script failed; the machine's console says why"
