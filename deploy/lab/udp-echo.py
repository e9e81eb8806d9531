"""UDP echo on port 7 (RFC 862), IPv4 and IPv6; puts the container's name in front so that a client sees who answered."""
import socket
import sys

sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
sock.bind(("::", 7))
name = sys.argv[1].encode()
while True:
    data, peer = sock.recvfrom(65535)
    sock.sendto(name + b" " + data, peer)
