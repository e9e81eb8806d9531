# Branch sites: wireguard-go on two, Open vSwitch with GRE on the third. Sourced by `lab`.

lab_after_apply() {
    start_branch branch-a blue 51820
    start_branch branch-b green 51821
    start_switch
}

# wireguard-go, with the public key that the controller made for the connection. Its control socket is a file of the whole machine, so
# the interface has the lab's name in its own.
start_branch() {
    local box=$1 tenant=$2 port=$3 wg="w$name${1#branch-}" public
    public=$(lab_cli get virtualGateways "$tenant-gateway" --json \
        | jq -r '.properties.networkConnections[] | select(.resourceId == "site").properties.wireGuardConfiguration.publicKey')
    [[ -n $public && $public != null ]] || { echo "lab: the controller shows no public key for $tenant's connection" >&2; return 1; }
    if [[ ! -e $state/$box.up ]]; then
        rm -f "/var/run/wireguard/$wg.sock"
        run "$box" "$box-wireguard" wireguard-go -f "$wg"
        wait_for 5 "wireguard-go on $box" ipn "$box" link show "$wg"
        wait_for 5 "wireguard-go's control socket on $box" test -S "/var/run/wireguard/$wg.sock"
    fi
    in_ns "$box" wg set "$wg" private-key "$state/$box.key" peer "$public" \
        endpoint "10.1.21.2:$port" allowed-ips 10.0.0.0/24 persistent-keepalive 5
    if [[ ! -e $state/$box.up ]]; then
        ipn "$box" addr add 192.168.50.2/24 dev "$wg"
        ipn "$box" link set "$wg" mtu 1420 up
        ipn "$box" route add 10.0.0.0/24 dev "$wg"
        serve_branch "$box"
        touch "$state/$box.up"
    fi
}

# A site whose router is Open vSwitch with its userspace datapath: the kernel need not know GRE. The bridge `site` is the site's network,
# `uplink` holds the link to the router.
start_switch() {
    local box=branch-c dir=$state/branch-c mac
    [[ ! -e $state/$box.up ]] || return 0
    mkdir -p "$dir"
    ovsdb-tool create "$dir/conf.db" /usr/share/openvswitch/vswitch.ovsschema
    run "$box" "$box-database" env OVS_RUNDIR="$dir" ovsdb-server "$dir/conf.db" --remote="punix:$dir/db.sock" --unixctl="$dir/db.ctl"
    wait_for 10 "the database of $box's switch" test -S "$dir/db.sock"
    run "$box" "$box-switch" env OVS_RUNDIR="$dir" ovs-vswitchd "unix:$dir/db.sock" --disable-system --unixctl="$dir/vs.ctl"
    wait_for 10 "$box's switch" test -S "$dir/vs.ctl"
    switch() { ovs-vsctl --timeout=10 --db="unix:$dir/db.sock" "$@"; }
    switch add-br uplink -- set bridge uplink datapath_type=netdev fail-mode=standalone -- add-port uplink eth0
    ipn "$box" addr flush dev eth0 scope global
    ipn "$box" addr add 198.18.0.2/24 dev uplink
    ipn "$box" link set uplink up
    ipn "$box" route replace default via 198.18.0.1 dev uplink
    switch add-br site -- set bridge site datapath_type=netdev fail-mode=secure -- add-port site tunnel -- \
        set interface tunnel type=gre ofport_request=9 options:packet_type=legacy_l3 options:remote_ip=10.1.21.2 options:key=7
    mac=$(ipn "$box" -j link show site | jq -r '.[0].address')
    ovs-ofctl add-flow "$dir/site.mgmt" "in_port=9,actions=mod_dl_dst:$mac,LOCAL"
    ovs-ofctl add-flow "$dir/site.mgmt" "in_port=LOCAL,actions=9"
    ipn "$box" addr add 192.168.60.2/24 dev site
    ipn "$box" link set site mtu 1460 up
    # The tunnel carries no Ethernet: any address will do for what is at its other end.
    ipn "$box" neigh replace 192.168.60.1 lladdr 02:00:00:00:00:01 dev site nud permanent
    ipn "$box" route add 10.0.0.0/24 via 192.168.60.1 dev site
    serve_branch "$box"
    touch "$state/$box.up"
}

serve_branch() {
    run "$1" "$1-iperf" iperf3 -s
    run "$1" "$1-hello" socat TCP-LISTEN:8080,fork,reuseaddr "SYSTEM:echo $1"
}
