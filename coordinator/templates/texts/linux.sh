#!/bin/sh
# Makes this machine the runner {{ runner_name }}: unpacks the runner unless the image has it, fetches all that it needs in
# one call, says that it is up (from then on the token opens nothing) and starts it. The machine goes off when it ends.
set -eu
umask 077
token={{ token | sh }}
metadata={{ metadata_url | sh }}
callback={{ callback_url | sh }}
home=/home/runner
{% if forge_type == "github" %}
folder=$home/actions-runner
program=run.sh
{% else %}
folder=$home/{{ forge_type }}-runner
program={{ forge_type }}-runner
{% endif %}

# with SECRET CURL-ARGUMENT...: the secret goes to curl by standard input, so that no process list shows it: a body must
# come as an argument.
with() {
  secret=$1
  shift
  { [ -z "$secret" ] || printf 'header = "Authorization: Bearer %s"\n' "$secret"; } |
    curl --config - --silent --show-error --fail "$@"
}

say() {
  with "$token" --output /dev/null --retry 5 --retry-connrefused --max-time 30 -H 'Content-Type: application/json' \
    --data "{\"status\":\"$1\",\"message\":\"$2\"}" "$callback/status"
}

give_up() {
  echo "$1" >&2
  say failed "$1" || true
  exit 1
}

as_root() {
{% if http_proxy or https_proxy %}
  set -- --preserve-env=http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY "$@"
  if [ "$(id -u)" -eq 0 ]; then shift && "$@"; else sudo "$@"; fi
{% else %}
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
{% endif %}
}

id runner >/dev/null 2>&1 || as_root useradd --create-home --shell /bin/bash runner
if ! as_root test -x "$folder/$program"; then
{% if tool_url %}
  say installing "downloading the runner"
  archive=$(mktemp)
  with {{ tool_token | sh }} --location --retry 5 --max-time 600 --output "$archive" {{ tool_url | sh }} ||
    give_up "the runner could not be downloaded"
{% if tool_sha256 %}
  printf '%s  %s\n' {{ tool_sha256 | lower | sh }} "$archive" | sha256sum --check --status ||
    give_up "the runner's archive has a wrong checksum"
{% else %}
  give_up "the forge gave no checksum for the runner's archive: build the runner into the image"
{% endif %}
  as_root mkdir -p "$folder"
{% if forge_type == "github" %}
  as_root tar -xzf "$archive" -C "$folder"
  if as_root test -x "$folder/bin/installdependencies.sh"; then
    tries=1
    # A package manager that is busy after the boot is the usual failure.
    until as_root "$folder/bin/installdependencies.sh" >/dev/null; do
      [ $tries -lt 6 ] || give_up "the runner's dependencies could not be installed"
      tries=$((tries + 1))
      sleep 15
    done
  fi
{% else %}
  as_root install -m 0755 "$archive" "$folder/$program"
{% endif %}
  as_root chown -R runner: "$folder"
  rm -f "$archive"
{% else %}
  give_up "the image has no runner in $folder, and "{{ why_no_tool | sh }}": build the runner into the image"
{% endif %}
fi

# All that the runner is started with is given once: its files, and the unit of its service.
private=$(mktemp -d)
system=$(. /etc/os-release && printf '{"os_name":"%s","os_version":"%s"}' "$ID" "${VERSION_ID:-}")
with "$token" --retry 5 --retry-delay 1 --retry-connrefused --max-time 60 -H 'Accept: application/x-tar' \
  -H 'Content-Type: application/json' --data "$system" --output "$private/all.tar" "$metadata/runner" ||
  give_up "the runner's configuration could not be fetched"
tar -xf "$private/all.tar" -C "$private"
for file in "$private"/files/.[!.]*; do
  as_root install -o runner -m 0600 "$file" "$folder/${file##*/}"
done
as_root install -m 0644 "$private/unit" /etc/systemd/system/hostler-runner.service
rm -rf "$private"
# systemd starts nothing from a home directory where SELinux enforces its policy. Kernels may have SELinux without one.
if [ "$(cat /sys/fs/selinux/enforce 2>/dev/null)" = 1 ]; then as_root chcon -R -t bin_t "$folder"; fi
as_root systemctl daemon-reload

# Before the runner starts, so that no job ever runs beside a token that still opens something.
say idle "runner is up"
as_root systemctl start --no-block hostler-runner.service
