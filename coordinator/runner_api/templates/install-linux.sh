#!/bin/sh
# Makes this machine the runner {{ name }}: unpacks the runner unless the image has it, fetches its configuration,
# says that it is up (from then on the token opens nothing) and starts it. The machine goes off when the runner ends.
set -eu
umask 077
token={{ token | sh }}
metadata={{ metadata_url | sh }}
callback={{ callback_url | sh }}
home=/home/runner
folder=$home/actions-runner

# The token goes to curl by standard input, so that no process list shows it: a body must come as an argument.
with_token() {
  printf 'header = "Authorization: Bearer %s"\n' "$token" | curl --config - --silent --show-error --fail "$@"
}

say() {
  with_token --output /dev/null --retry 5 --retry-connrefused --max-time 30 -H 'Content-Type: application/json' \
    --data "{\"status\":\"$1\",\"message\":\"$2\"}" "$callback/status"
}

give_up() {
  echo "$1" >&2
  say failed "$1" || true
  exit 1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

say installing "booted"

id runner >/dev/null 2>&1 || as_root useradd --create-home --shell /bin/bash runner
if ! as_root test -x "$folder/run.sh"; then
{% if tool.download_url %}
  say installing "downloading the runner"
  archive=$(mktemp)
  curl --silent --show-error --fail --location --retry 5 --max-time 600 --output "$archive" {{ tool.download_url | sh }}
{% if tool.sha256_checksum %}
  printf '%s  %s\n' {{ tool.sha256_checksum | sh }} "$archive" | sha256sum --check --status ||
    give_up "the runner's archive has a wrong checksum"
{% else %}
  give_up "the forge gave no checksum for the runner's archive: build the runner into the image"
{% endif %}
  as_root mkdir -p "$folder"
  as_root tar -xzf "$archive" -C "$folder"
  rm -f "$archive"
  as_root chown -R runner: "$folder"
  if as_root test -x "$folder/bin/installdependencies.sh"; then
    as_root "$folder/bin/installdependencies.sh" >/dev/null
  fi
{% else %}
  give_up "the image has no runner in $folder, and "{{ why_none | sh }}": build the runner into the image"
{% endif %}
fi

private=$(mktemp -d)
for name in runner credentials credentials_rsaparams; do
  with_token --retry 5 --retry-delay 1 --max-time 60 --output "$private/$name" "$metadata/credentials/$name"
  as_root install -o runner -m 0600 "$private/$name" "$folder/.$name"
done
rm -rf "$private"
with_token --retry 5 --max-time 30 --output /dev/null -H 'Content-Type: application/json' \
  --data "{\"os_name\":\"$(. /etc/os-release && echo "$ID")\",\"os_version\":\"$(. /etc/os-release && echo "${VERSION_ID:-}")\"}" \
  "$callback/system-info"
unit=$(mktemp)
with_token --retry 5 --max-time 30 --output "$unit" "$metadata/systemd/unit-file?runAsUser=runner"
as_root install -m 0644 "$unit" /etc/systemd/system/hostler-runner.service
rm -f "$unit"
as_root systemctl daemon-reload

# Before the runner starts, so that no job ever runs beside a token that still opens something.
say idle "runner is up"
as_root systemctl start --no-block hostler-runner.service
