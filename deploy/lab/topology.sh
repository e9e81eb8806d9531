# Boxes, links, addresses and routes of the lab. Sourced by `lab`.
#
#   box         IPv4               IPv6              what
#   client      198.51.100.2/24    2001:db8:c::2     somewhere on the internet, MTU 1500
#   router      .1 of every net    ::1               AS 65001 (BIRD): routes VIPs to the muxes that announce them, by ECMP
#   mux1, mux2  10.1.1.2, 10.1.2.2 fd00:1:1::2, ..   AS 64512; MTU 1610: 1500, VXLAN and the longest second chance
#   host1,host2 10.1.11.2, .12.2   fd00:1:11::2, ..  three containers each
#   gateway     10.1.21.2                          MTU 1600, as the controller's
#   gateway2    10.1.22.2                          stands by
#   controller  10.1.31.2
#   branch-a    192.0.2.2/25       tenant blue's site, 192.168.50.0/24 inside
#   branch-b    192.0.2.130/25     tenant green's site, the same addresses inside
#   branch-c    198.18.0.2/24      tenant green's second site, 192.168.60.0/24 inside, behind Open vSwitch
#
# VIPs: 203.0.113.0/24 and 2001:db8:f::/64.

boxes=(router client mux1 mux2 host1 host2 gateway gateway2 controller branch-a branch-b branch-c)
containers=(blue-1 blue-2 green-1 blue-3 green-2 green-3)
declare -A container_host=([blue-1]=host1 [blue-2]=host1 [green-1]=host1 [blue-3]=host2 [green-2]=host2 [green-3]=host2)

ns() { echo "pst-$name-$1"; }
in_ns() { local box=$1; shift; ip netns exec "$(ns "$box")" "$@"; }
ipn() { local box=$1; shift; ip -n "$(ns "$box")" "$@"; }

make_boxes() {
    local box
    for box in "${boxes[@]}" "${containers[@]}"; do
        ip netns add "$(ns "$box")"
        ipn "$box" link set lo up
        # Namespaces inherit nothing useful here; say what each box does.
        in_ns "$box" sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 \
            net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0
    done
    in_ns router sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
        net.ipv4.fib_multipath_hash_policy=1 net.ipv6.fib_multipath_hash_policy=1 \
        net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
}

# link BOX MTU IPV4/LEN IPV6/LEN: eth0 in the box, an interface of the box's name in the router; the router has .1 / ::1.
link() {
    local box=$1 mtu=$2 v4=$3 v6=$4 gw4 gw6
    gw4=$(sed -E 's/\.[0-9]+\/.*//' <<<"$v4").$(( $(sed -E 's/.*\.([0-9]+)\/.*/\1/' <<<"$v4") - 1 ))
    gw6=${v6%2/*}1
    ipn router link add "$box" mtu "$mtu" type veth peer name eth0 netns "$(ns "$box")"
    ipn "$box" link set eth0 mtu "$mtu" up
    ipn router link set "$box" up
    ipn router addr add "$gw4/${v4#*/}" dev "$box"
    ipn router -6 addr add "$gw6/${v6#*/}" dev "$box" nodad
    ipn "$box" addr add "$v4" dev eth0
    ipn "$box" -6 addr add "$v6" dev eth0 nodad
    ipn "$box" route add default via "$gw4"
    ipn "$box" -6 route add default via "$gw6"
}

make_links() {
    local mux
    link client 1500 198.51.100.2/24 2001:db8:c::2/64
    link mux1 1610 10.1.1.2/24 fd00:1:1::2/64
    link mux2 1610 10.1.2.2/24 fd00:1:2::2/64
    link host1 1610 10.1.11.2/24 fd00:1:11::2/64
    link host2 1610 10.1.12.2/24 fd00:1:12::2/64
    link gateway 1600 10.1.21.2/24 fd00:1:21::2/64
    link gateway2 1600 10.1.22.2/24 fd00:1:22::2/64
    link controller 1600 10.1.31.2/24 fd00:1:31::2/64
    link branch-a 1500 192.0.2.2/25 2001:db8:ba::2/64
    link branch-b 1500 192.0.2.130/25 2001:db8:bb::2/64
    link branch-c 1500 198.18.0.2/24 2001:db8:bc::2/64
    # A veth gives its peer frames of an XDP program only if that has GRO on.
    for mux in mux1 mux2; do
        in_ns router ethtool -K "$mux" gro on
    done
}

# Overlay addresses are equal in both tenants on purpose: blue-N and green-N are 10.0.0.1N and fd10::1N.
make_container() {
    local c=$1 host n
    host=${container_host[$c]}
    n=${c##*-}
    ipn "$host" link add "$c" mtu 1500 type veth peer name eth0 netns "$(ns "$c")"
    ipn "$c" link set eth0 address "02:00:0a:00:00:1$n" mtu 1500 up
    in_ns "$host" sysctl -qw "net.ipv6.conf.$c.disable_ipv6=1"
    ipn "$host" link set "$c" up
    ipn "$c" addr add "10.0.0.1$n/24" dev eth0
    ipn "$c" -6 addr add "fd10::1$n/64" dev eth0 nodad
    ipn "$c" route add default via 10.0.0.1
    ipn "$c" -6 route add default via fd10::1
}
