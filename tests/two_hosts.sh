#!/bin/sh
# Two hosts on one machine, as two network namespaces joined by a cable. Each runs the command that
# docs/training.md gives for several hosts, with a run folder of its own:
#
#     unshare --map-root-user --net sh two_hosts.sh FOLDER FOLDER WORDS...
#
# Exits with 77 where there can be no such namespaces.
set -u
here=$1 there=$2
shift 2

unshare --net sleep 600 &
other=$!
trap 'kill $other' EXIT
elsewhere() { nsenter --net=/proc/$other/ns/net "$@"; }
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do  # not there yet
    kill -0 $other || exit 77
    sleep 0.1
done
{
    ip link set lo up && elsewhere ip link set lo up &&
    ip link add name cable0 type veth peer name cable1 netns $other &&
    ip address add 10.77.0.1/24 dev cable0 && ip link set cable0 up &&
    elsewhere ip address add 10.77.0.2/24 dev cable1 && elsewhere ip link set cable1 up
} || exit 77

launch="python -m accelerate.commands.launch --multi_gpu --num_machines 2 --num_processes 2
    --main_process_ip 10.77.0.1 --main_process_port 29500 --mixed_precision no --dynamo_backend no"
GLOO_SOCKET_IFNAME=cable0 $launch --machine_rank 0 -m cmkd distill --out "$here" "$@" &
first=$!
GLOO_SOCKET_IFNAME=cable1 elsewhere $launch --machine_rank 1 -m cmkd distill --out "$there" "$@"
second=$?
wait $first && exit $second
