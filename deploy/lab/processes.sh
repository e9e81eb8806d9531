# Processes of the lab: Penstock nodes, servers in containers, the router. Sourced by `lab`.

nodes=(controller mux1 mux2 host1 host2 gateway gateway2)

lab_up() {
    need_root
    [[ -x $bin ]] || { echo "lab: no penstock binary at $bin; build it with: cargo build --release -p penstock" >&2; exit 1; }
    [[ ! -e $state ]] || { echo "lab: \"$name\" is up already; take it down with: $0 down --name $name" >&2; exit 1; }
    mkdir -p -m 700 /run/penstock-lab "$state" "$state"/{log,pid,node}
    make_big_file
    make_boxes
    make_links
    local c n
    for c in "${containers[@]}"; do make_container "$c"; done
    make_certificates
    write_declaration
    for n in "${nodes[@]}"; do write_config "$n"; done
    start_router
    start_node controller
    wait_for 10 "the controller's API" lab_cli status
    for n in "${nodes[@]:1}"; do start_node "$n"; done
    for c in "${containers[@]}"; do start_container "$c"; done
}

# The router speaks BGP and BFD with the muxes and has a route for each VIP in its kernel, over all muxes that announce it.
start_router() {
    local n
    {
        cat <<BIRD
router id 10.1.1.1;
log "$state/log/router.log" all;
protocol device { scan time 1; }
protocol direct { ipv4; ipv6; }
protocol kernel { merge paths on; ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel { merge paths on; ipv6 { import none; export where source = RTS_BGP; }; }
protocol bfd { interface "*" { interval 100 ms; multiplier 3; }; }
# RFC 8326: who is about to go is the last choice.
function is_vip(prefix set vips) { if (65535, 0) ~ bgp_community then bgp_local_pref = 0; return net ~ vips; }
template bgp mux { local as 65001; hold time 9; bfd on; connect delay time 1; connect retry time 2; error wait time 1, 4; }
BIRD
        for n in 1 2; do
            cat <<BIRD
protocol bgp mux${n}_v4 from mux {
    neighbor 10.1.$n.2 as 64512;
    ipv4 { import where is_vip([203.0.113.0/24{32,32}]); export none; };
}
protocol bgp mux${n}_v6 from mux {
    neighbor fd00:1:$n::2 as 64512;
    ipv6 { import where is_vip([2001:db8:f::/64{128,128}]); export none; };
}
BIRD
        done
    } >"$state/bird.conf"
    run router router bird -f -c "$state/bird.conf" -s "$state/bird.ctl"
}

need_root() { [[ $EUID -eq 0 ]] || { echo "lab: run this as root: it makes network namespaces" >&2; exit 1; }; }

# 1 GiB that compresses badly, made once.
make_big_file() {
    mkdir -p "$cache"
    [[ -s $cache/big.sha256 ]] && return
    head -c $((1 << 30)) /dev/zero \
        | openssl enc -aes-128-ctr -nosalt -K 00112233445566778899aabbccddeeff -iv 00000000000000000000000000000000 >"$cache/big.tmp.$$"
    mv "$cache/big.tmp.$$" "$cache/big"
    (cd "$cache" && sha256sum big >"big.sha256.$$" && mv "big.sha256.$$" big.sha256)
    chmod -R a+rX "$cache"
}

make_certificates() {
    "$bin" pki init --dir "$state/pki" >/dev/null
    issue controller controller --ip 10.1.31.2
    issue mux mux1; issue mux mux2; issue host host1; issue host host2; issue gateway gateway; issue gateway gateway2
    issue operator operator
    local box
    for box in branch-a branch-b; do (umask 077; wg genkey >"$state/$box.key"); done
}

# The declaration that is applied: lab.json with the sites' public keys, which are new for every lab.
write_declaration() {
    sed -e "s|@BRANCH_A_PUBLIC_KEY@|$(wg pubkey <"$state/branch-a.key")|" \
        -e "s|@BRANCH_B_PUBLIC_KEY@|$(wg pubkey <"$state/branch-b.key")|" "$here/lab.json" >"$state/lab.json"
}

issue() {
    local role=$1 who=$2
    shift 2
    "$bin" pki issue --dir "$state/pki" --role "$role" --name "$who" "$@" >/dev/null
}

underlay() {
    case $1 in
        mux*) echo "10.1.${1#mux}.2" ;;
        host*) echo "10.1.1${1#host}.2" ;;
        gateway) echo 10.1.21.2 ;;
        gateway2) echo 10.1.22.2 ;;
        controller) echo 10.1.31.2 ;;
    esac
}

write_config() {
    local node=$1 c
    {
        cat <<TOML
[node]
name = "$node"
ca = "$state/pki/ca.pem"
certificate = "$state/pki/$node.pem"
key = "$state/pki/$node.key"
state_dir = "$state/node/$node"
TOML
        [[ $node == controller ]] || echo 'controller = "10.1.31.2:8443"'
        cat <<TOML

[telemetry]
listen = "$(underlay "$node"):9090"
TOML
        case $node in
            controller)
                cat <<TOML

[controller]
listen = "10.1.31.2:443"
southbound_listen = "10.1.31.2:8443"
TOML
                ;;
            mux*)
                cat <<TOML

[mux]
interface = "eth0"
underlay_address = "$(underlay "$node")"
TOML
                ;;
            gateway*)
                cat <<TOML

[gateway]
interface = "eth0"
underlay_address = "$(underlay "$node")"
TOML
                ;;
            host*)
                cat <<TOML

[host]
underlay_interface = "eth0"
underlay_address = "$(underlay "$node")"
TOML
                for c in "${containers[@]}"; do
                    [[ ${container_host[$c]} == "$node" ]] || continue
                    printf '\n[[host.ports]]\nnetwork_interface = "%s"\ndevice = "%s"\n' "$c" "$c"
                done
                ;;
        esac
    } >"$state/$node.toml"
}

# run BOX PROCESS COMMAND..: in the background, with its own log and pid file.
run() {
    local box=$1 process=$2
    shift 2
    ip netns exec "$(ns "$box")" setsid "$@" >>"$state/log/$process.log" 2>&1 </dev/null &
    echo $! >"$state/pid/$process"
    disown
}

start_node() { run "$1" "$1" "$bin" run --config "$state/$1.toml"; }

stop_node() {
    local pid
    pid=$(cat "$state/pid/$1")
    kill "-$2" "$pid" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
    echo "lab: $1 (pid $pid) does not stop" >&2
    return 1
}

# A container serves HTTP (nginx: /, /big), echoes UDP on port 7, and takes iperf3.
start_container() {
    local c=$1 dir=$state/$1
    mkdir -p "$dir"
    cat >"$dir/nginx.conf" <<NGINX
daemon off;
worker_processes 1;
pid $dir/nginx.pid;
error_log $state/log/$c-nginx.log;
events { worker_connections 4096; }
http {
    access_log off;
    sendfile on;
    client_body_temp_path $dir/t1; proxy_temp_path $dir/t2; fastcgi_temp_path $dir/t3; uwsgi_temp_path $dir/t4; scgi_temp_path $dir/t5;
    server {
        listen 8080 backlog=4096;
        listen [::]:8080 backlog=4096;
        default_type text/plain;
        add_header X-Container "$c";
        location = /big { alias $cache/big; }
        location = /slow { alias $cache/big; limit_rate 400k; }
        location / { return 200 "$c \$remote_addr\n"; }
    }
}
NGINX
    run "$c" "$c-udp" python3 "$here/udp-echo.py" "$c"
    run "$c" "$c-iperf" iperf3 -s
    # The probe asks for HTTP: when that answers, all of the container has to.
    local i
    for ((i = 0; i < 50; i++)); do
        [[ -z $(in_ns "$c" ss -Huln "sport = :7") ]] || break
        sleep 0.05
    done
    run "$c" "$c-http" nginx -c "$dir/nginx.conf" -e "$state/log/$c-nginx.log"
}

stop_container() {
    ip netns pids "$(ns "$1")" | xargs -r kill -KILL 2>/dev/null || true
}

lab_cli() {
    in_ns controller "$bin" --server https://10.1.31.2:443 --ca "$state/pki/ca.pem" \
        --cert "$state/pki/operator.pem" --key "$state/pki/operator.key" "$@"
}

# wait_for SECONDS WHAT COMMAND..: until the command succeeds.
wait_for() {
    local seconds=$1 what=$2
    shift 2
    for _ in $(seq $((seconds * 10))); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
    echo "lab: $what did not come up within $seconds s; logs are in $state/log" >&2
    return 1
}

lab_down() {
    need_root
    local n
    for n in $(ip netns list | awk '{print $1}' | grep "^pst-$name-" || true); do
        ip netns pids "$n" | xargs -r kill -KILL 2>/dev/null || true
    done
    for n in $(ip netns list | awk '{print $1}' | grep "^pst-$name-" || true); do ip netns del "$n"; done
    rm -rf "$state" "/var/run/wireguard/w$name"[ab].sock
    rmdir /run/penstock-lab 2>/dev/null || true
}
