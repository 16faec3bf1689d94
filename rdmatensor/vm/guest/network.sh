#!/bin/sh
# network.sh: RDMA devices of the guest.
#   network.sh one            rxe0 on a dummy interface: packets stay inside the driver
#   network.sh two [NETEM...] rxa and rxb on the two ends of a virtual cable, with NETEM on each, as for `tc ... netem`
#
# rdma_rxe works in the first network namespace only, so both ends of the cable are in the same one. For packets to
# cross it, each end must take the other's address for a remote one: the table of local addresses is asked only for what
# came in from the cable, and what leaves for the other end is routed by its source or its interface.
set -e

# An RDMA device can be used once its port is active and its table of GIDs holds the address.
await() {
    tries=200
    until read -r state <"/sys/class/infiniband/$1/ports/1/state" && [ "${state#*ACTIVE}" != "$state" ] &&
        grep -qis "ffff:$2" "/sys/class/infiniband/$1/ports/1/gids/1" "/sys/class/infiniband/$1/ports/1/gids/0" \
            "/sys/class/infiniband/$1/ports/1/gids/2"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "rdmatensor: $1 did not become ready: $state"; return 1; }
        sleep 0.02
    done
}

one() {
    ip link set lo up
    ip link add net0 type dummy
    ip link set net0 mtu 9000 up
    ip address add 10.80.0.1/24 dev net0
    rdma link add rxe0 type rxe netdev net0
    await rxe0 0a50:0001
}

# end NAME ADDRESS OTHER-NAME OTHER-ADDRESS TABLE
end() {
    for setting in accept_local=1 rp_filter=0 arp_ignore=1 arp_announce=2; do
        echo "${setting#*=}" >"/proc/sys/net/ipv4/conf/$1/${setting%=*}"
    done
    ip route add "$4" dev "$1" src "$2" table "$5"
    ip rule add pref 10 iif "$1" lookup local
    ip rule add pref 20 from "$2" to "$4" lookup "$5"
    ip rule add pref 30 oif "$1" to "$4" lookup "$5"
    ip neighbour replace "$4" lladdr "$(cat "/sys/class/net/$3/address")" dev "$1" nud permanent
}

two() {
    rdma link delete rxe0
    ip link delete net0
    ip link add net-a type veth peer name net-b
    ip address add 10.80.0.1/32 dev net-a
    ip address add 10.80.0.2/32 dev net-b
    ip link set net-a mtu 9000 up
    ip link set net-b mtu 9000 up
    echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter
    end net-a 10.80.0.1 net-b 10.80.0.2 101
    end net-b 10.80.0.2 net-a 10.80.0.1 102
    ip rule add pref 100 lookup local
    ip rule delete pref 0
    rdma link add rxa type rxe netdev net-a
    rdma link add rxb type rxe netdev net-b
    await rxa 0a50:0001
    await rxb 0a50:0002
    if [ $# -gt 0 ]; then
        tc qdisc replace dev net-a root netem "$@"
        tc qdisc replace dev net-b root netem "$@"
    fi
}

"$@"
