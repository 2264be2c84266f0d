#!/bin/bash
# A whole provider executable (GARM's external-provider contract, v0.1.0) to copy from: machines are QEMUs on this computer.
# Needs jq, genisoimage, qemu-utils and qemu-system-x86. For trials: its machines reach whatever this computer reaches.
#
# GARM_PROVIDER_CONFIG_FILE, lines of TOML:   directory = "/var/lib/machines"   where machines are kept; all of them are its own
#   images = "/srv/images"     the pool's image NAME is NAME.qcow2 there; it is to run user data as cloud-init does (NoCloud)
#   flavor_small = "2 4096"    of the pool's flavor small: processors and MiB
#   accelerator = "kvm"        or "tcg", which emulates
#
# A machine is the directory of its name. Whoever makes or runs it holds the lock of its file `alive`: this script, then QEMU.
set -euo pipefail
umask 077
export PATH # callers pass none on: bash has one of its own, its children had none

fail() { # REASON [EXIT CODE]: 30 means that it is not there, 31 that it is already
  printf 'qemu.bash: %s\n' "$1" >&2
  exit "${2:-1}"
}
setting() {
  local value
  value=$(sed -n "s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*\"\([^\"]*\)\".*/\1/p" -- "$GARM_PROVIDER_CONFIG_FILE")
  [ -n "$value" ] || fail "$GARM_PROVIDER_CONFIG_FILE has no $1 = \"…\""
  printf %s "$value"
}
is_name() { [[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$ ]]; } # so it can be part of any path and any option

enter() { # NAME: go to its directory, if it is a machine of this controller
  is_name "$1" && cd -- "$directory/$1" 2>/dev/null && [ "$(cat controller)" = "$GARM_CONTROLLER_ID" ] || fail "there is no machine '$1'" 30
}
is_idle() { flock --shared --nonblock alive true; }

describe() { # the machine of this directory, as the contract wants it told
  local status=stopped fault=
  if ! is_idle; then
    if [ -e pid ]; then status=running; else status=unknown; fi
  elif [ ! -e made ]; then
    status=error fault=$(printf 'making it was broken off' | base64)
  fi
  jq --null-input --arg name "${PWD##*/}" --arg status "$status" --arg fault "$fault" \
    '{provider_id: $name, name: $name, os_type: "linux", os_arch: "amd64", addresses: [], status: $status}
      + if $fault == "" then {} else {provider_fault: $fault} end'
}

run() { # the machine of this directory, whose lock is open file 9; back when it runs
  local cpus memory accelerator fd
  read -r cpus memory <machine
  accelerator=$(setting accelerator)
  rm -f pid
  (
    # QEMU stays, and so would every file that it inherits: a caller may wait for the end of one, as of its own pipes.
    for fd in /proc/self/fd/*; do
      fd=${fd##*/}
      if [ "$fd" -gt 2 ] && [ "$fd" -ne 9 ]; then eval "exec $fd>&-"; fi
    done
    exec qemu-system-x86_64 -daemonize -pidfile pid -name "${PWD##*/}" -nodefaults -no-user-config -no-reboot -display none \
      -machine "q35,accel=$accelerator" -cpu max -smp "$cpus" -m "$memory" -serial file:console.log -nic user,model=virtio-net-pci \
      -drive file=disk.qcow2,if=virtio,format=qcow2 -drive file=seed.iso,if=virtio,format=raw,readonly=on >&2 </dev/null
  ) || fail "QEMU did not start"
}
halt() { # SIGNAL: end the QEMU of this directory; afterwards its lock is open file 9
  local pid
  exec 9>>alive
  until flock --timeout 0.1 9; do
    pid=$(cat pid 2>/dev/null) || continue
    # The number may be an older QEMU's, and somebody else's by now: who has our lock is ours.
    if [ "/proc/$pid/fd/9" -ef alive ]; then kill "-$1" "$pid" 2>/dev/null || true; fi
  done
}
remove() { # what says whose it is goes last: broken off, it is still listed
  halt KILL
  rm -f -- made disk.qcow2 seed.iso
  rm -rf -- "$PWD"
}

create() {
  local bootstrap name image base flavor cpus memory
  bootstrap=$(cat)
  asked() { jq --exit-status --raw-output "$1" <<<"$bootstrap" 2>/dev/null || fail "standard input has no usable $1"; }
  name=$(asked .name)
  image=$(asked .image)
  flavor=$(asked .flavor)
  is_name "$name" || fail "'$name' cannot be a machine's name"
  [ "$(asked .os_type) $(asked .arch)" = "linux amd64" ] || fail "only linux on amd64 is made here"
  [ ! -e "$directory/$name" ] || fail "there is a machine '$name'" 31
  base=$(setting images)/$image.qcow2
  is_name "$image" && [ -r "$base" ] || fail "there is no image '$image'"
  is_name "$flavor" || fail "'$flavor' cannot be a flavor's name"
  read -r cpus memory <<<"$(setting "flavor_${flavor//./\\.}")"
  [[ $cpus =~ ^[1-9][0-9]*$ && $memory =~ ^[1-9][0-9]*$ ]] || fail "flavor_$flavor is to be processors and MiB"

  # It appears at once with lock and tags, or not at all: two that make the same cannot both do it.
  new=$(mktemp -d -- "$directory/.new.XXXXXX")
  trap 'rm -rf -- "$new"' EXIT
  printf %s "$GARM_CONTROLLER_ID" >"$new/controller"
  asked .pool_id >"$new/pool"
  echo "$cpus $memory" >"$new/machine"
  exec 9>"$new/alive"
  flock 9
  mv --no-target-directory -- "$new" "$directory/$name" 2>/dev/null || fail "there is a machine '$name'" 31
  cd -- "$directory/$name"
  trap 'exec 9>&-; remove' EXIT

  # Secrets go through files that only we can read, never through arguments: every user sees those.
  asked .extra_specs.runner_install_template | base64 --decode >user-data 2>/dev/null || fail "runner_install_template is not base64"
  jq --null-input --arg name "$name" '{"instance-id": $name, "local-hostname": $name}' >meta-data
  genisoimage -quiet -output seed.iso -volid cidata -joliet -rock user-data meta-data
  rm user-data
  qemu-img create -q -f qcow2 -F qcow2 -b "$base" disk.qcow2
  run
  touch made
  describe
  trap - EXIT
}

each() { # COMMAND POOL: in the directory of every machine of this controller and pool; of every pool when it is empty
  local machine
  for machine in "$directory"/*/; do
    ( # what is just being deleted is in neither listing nor way
      enter "$(basename -- "$machine")" 2>/dev/null
      [ -z "$2" ] || [ "$(cat pool 2>/dev/null)" = "$2" ] || exit 30
      "$1"
    ) || [ $? -eq 30 ] || return 1
  done
}

: "${GARM_CONTROLLER_ID:?}" "${GARM_PROVIDER_CONFIG_FILE:?}"
[ "${GARM_INTERFACE_VERSION:-v0.1.0}" = v0.1.0 ] || fail "does not implement $GARM_INTERFACE_VERSION"
directory=$(setting directory)
mkdir -p -- "$directory"
case ${GARM_COMMAND:?} in
  CreateInstance) create ;;
  GetInstance) enter "${GARM_INSTANCE_ID:?}" && describe ;;
  ListInstances) each describe "${GARM_POOL_ID:?}" | jq --slurp . ;;
  DeleteInstance) enter "${GARM_INSTANCE_ID:?}" && remove ;;
  RemoveAllInstances) each remove "${GARM_POOL_ID:-}" ;;
  StopInstance) enter "${GARM_INSTANCE_ID:?}" && halt TERM ;;
  StartInstance)
    enter "${GARM_INSTANCE_ID:?}"
    is_idle || exit 0
    [ -e made ] || fail "it was never made as a whole: delete it"
    exec 9>>alive
    flock --timeout 5 9 || exit 0
    run
    ;;
  GetVersion) echo "qemu.bash 1.0" ;;
  *) fail "unknown command '$GARM_COMMAND'" ;;
esac
