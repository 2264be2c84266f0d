#!/bin/sh
# The stand-in runner: takes one job from the forge simulator, runs its script, reports, and exits.
#   runner.sh                      in the directory that holds .runner and .credentials
#   runner.sh --jitconfig BASE64   unpacks them there first, as the real run.sh does
# Needs a POSIX shell and either busybox or the usual tools with curl or GNU wget.
# Exit codes are those of the real listener: 0 job done (whatever its result), 1 terminated or not registered,
# 2 the forge cannot be reached (try again), 5 another session of this runner is open.
set -u
umask 077

ship_every=${RUNNER_SHIP_SECONDS:-1}      # each piece of log, an empty one too, is a sign of life
request_limit=60                          # seconds; the forge answers a poll within 20

say() { printf '%s\n' "$*"; }
fail() { code=$1; shift; say "runner: $*" >&2; exit "$code"; }

# json_value FILE KEY: the string or number of that key. Enough for the flat files of a configuration.
json_value() {
  tr -d '\r\n' <"$1" |
    sed -n -e 's/.*"'"$2"'" *: *"\{0,1\}\([^",}]*\).*/\1/p' |
    sed -e 's,\\/,/,g' -e 's/\\u002[bB]/+/g' -e 's/\\u003[dD]/=/g'
}

unpack() {
  printf '%s' "$1" | base64 -d >"$scratch/jit.json" 2>/dev/null || fail 1 "the JIT configuration is no base64"
  for file in .runner .credentials .credentials_rsaparams; do
    json_value "$scratch/jit.json" "\\$file" | base64 -d >"$file" 2>/dev/null
    [ -s "$file" ] || fail 1 "the JIT configuration holds no usable $file"
  done
}

choose_client() {
  if command -v curl >/dev/null; then client=curl
  elif command -v busybox >/dev/null; then client='busybox wget -q'
  elif ! command -v wget >/dev/null; then fail 1 "no HTTP client: install busybox, curl or wget"
  elif wget --help 2>&1 | grep -q BusyBox; then client='wget -q'
  else client="wget -S -t 1 -T $request_limit"
  fi
}

# request PATH OUTPUT [BODY]: GET, or POST of the file BODY. Sets status: 200 for every success, else the server's
# code, or 000 when there was no answer. wget tells the code of a failure only in its messages.
request() {
  rm -f "$2"
  if [ "$client" = curl ]; then
    status=$(curl -s -o "$2" -w '%{http_code}' --max-time "$request_limit" \
      -H "Authorization: Bearer $token" ${3:+--data-binary "@$3"} "$server$1")
    case $status in 2??) status=200 ;; esac
  elif timeout "$request_limit" $client -O "$2" --header "Authorization: Bearer $token" \
    ${3:+--post-file "$3"} "$server$1" 2>"$scratch/messages"; then
    status=200
  else
    status=$(sed -n 's,.*HTTP/1\.[01] \([0-9][0-9][0-9]\).*,\1,p' "$scratch/messages" | tail -n 1)
    status=${status:-000}
  fi
}

# stop_on CODE: the codes after which this runner has nothing more to do here.
stop_on() {
  case $1 in
    401 | 404) fail 1 "the forge does not know this runner or its job any more ($1)" ;;
    409) fail 5 "another session of this runner is open" ;;
    *) fail 2 "the forge at $server gave no usable answer ($1)" ;;
  esac
}

# post_until_heard PATH BODY: a report that must arrive is tried again for a minute.
post_until_heard() {
  tries=0
  while request "$1" "$scratch/answer" "$2"; [ "$status" = 000 ] || [ "$status" -ge 500 ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 30 ] || return 0
    sleep 2
  done
}

# ship: send what the log has grown by, from the byte where the forge's copy ends; a lost answer does no harm.
ship() {
  shipped=$(cat "$scratch/shipped")
  # busybox wget ends a body at the first zero byte.
  tail -c "+$((shipped + 1))" "$log" | tr '\000' '?' >"$scratch/piece"
  request "/job/$job/log?offset=$shipped" "$scratch/answer" "$scratch/piece"
  if [ "$status" = 200 ]; then
    cat "$scratch/piece"
    echo $((shipped + $(wc -c <"$scratch/piece"))) >"$scratch/shipped"
  fi
}

# end_job: all of the job's processes; the first one by itself too, while it has no session of its own yet.
end_job() { kill -- "-$worker" "$worker" 2>/dev/null; }

# ship_until_over: runs beside the job. Gone from the forge means the job is no longer wanted: it is ended.
# The file tells that the job is over; TERM only cuts the nap short, for a shell just forked can lose a signal.
ship_until_over() {
  trap : TERM
  while [ ! -e "$scratch/over" ]; do
    sleep "$ship_every" &
    nap=$!
    wait "$nap"
    kill "$nap" 2>/dev/null
    ship
    case $status in 401 | 404) : >"$scratch/unwanted"; end_job; return ;; esac
  done
}

stop_shipping() {
  : >"$scratch/over"
  kill -TERM "$shipper" 2>/dev/null
  wait "$shipper"
}

run_job() {
  log=$scratch/log
  : >"$log"
  echo 0 >"$scratch/shipped"
  mkdir -p "$work_folder"
  # A session of its own, so that the job's processes can be ended together.
  CI=true GITHUB_ACTIONS=true RUNNER_NAME=$name RUNNER_OS=Linux GITHUB_WORKSPACE=$PWD/$work_folder \
    setsid sh -c 'umask 022; cd "$1" && exec sh -e "$2"' sh "$work_folder" "$scratch/script" >"$log" 2>&1 </dev/null &
  worker=$!
  ship_until_over &
  shipper=$!
  wait "$worker"
  code=$?
  stop_shipping
  end_job                                   # what it left running
  [ ! -e "$scratch/unwanted" ] || stop_on 401
  ship
}

terminated() {
  trap '' TERM INT
  if [ -n "$worker" ]; then
    end_job
    stop_shipping
    ship
    request "/job/$job/complete?result=failure" "$scratch/answer" "$scratch/empty"
  fi
  fail 1 "terminated"
}

scratch=$(mktemp -d) || fail 1 "no room for temporary files"
worker='' shipper=''
trap 'rm -rf "$scratch"' EXIT
trap terminated TERM INT

jitconfig=${ACTIONS_RUNNER_INPUT_JITCONFIG:-}
while [ $# -gt 0 ]; do
  case $1 in
    --jitconfig) [ $# -ge 2 ] || fail 1 "--jitconfig needs a value"; jitconfig=$2; shift 2 ;;
    *) fail 1 "unknown argument $1: only --jitconfig BASE64 is known" ;;
  esac
done
[ -z "$jitconfig" ] || unpack "$jitconfig"
[ -s .runner ] && [ -s .credentials ] || fail 1 "no .runner and .credentials here: run me where they are, or give --jitconfig"

server=$(json_value .runner serverUrl)
name=$(json_value .runner agentName)
work_folder=$(json_value .runner workFolder)
work_folder=${work_folder:-_work}
token=$(json_value .credentials token)
[ -n "$server" ] && [ -n "$token" ] || fail 1 ".runner lacks serverUrl or .credentials lacks a token"
choose_client

: >"$scratch/empty"
request /session "$scratch/answer" "$scratch/empty"
[ "$status" = 200 ] || stop_on "$status"
say "Connected to $server as $name"
say "Listening for Jobs"
while :; do
  request /job "$scratch/job"
  [ "$status" = 200 ] || stop_on "$status"
  [ ! -s "$scratch/job" ] || break
done

job=$(sed -n '1s/^job //p' "$scratch/job")
sed 1d "$scratch/job" >"$scratch/script"
say "Running job: $job"
run_job
result=failure
[ "$code" -ne 0 ] || result=success
post_until_heard "/job/$job/complete?result=$result" "$scratch/empty"
[ "$status" = 200 ] || stop_on "$status"
say "Job $job completed with result: $result"
