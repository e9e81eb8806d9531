"""Creates, reads, changes and deletes resources with python-hnvclient, a client of the Network Controller, as it is published.

Its login is left out: requests (below it) takes name and password of the host from the file that NETRC names.
"""
import sys

from hnvclient import CONFIG, client
from hnvclient.common import exception

CONFIG.update(url=sys.argv[1], https_ca_bundle=sys.argv[2], retry_interval=0.1, retry_count=2)


def ref(path):
    return client.Resource(resource_ref=path)


def gone(model, **names):
    try:
        model.get(**names)
    except exception.NotFound:
        return True
    return False


def check(condition, what):
    if not condition:
        sys.exit("wrong: " + what)
    print("good:", what)


# A network of the site, with its subnet and addresses.
client.LogicalNetworks(resource_id="hnv", network_virtualization_enabled="True", subnetworks=[]).commit()
client.LogicalSubnetworks(parent_id="hnv", resource_id="vips", address_prefix="203.0.113.0/24", vlan_id="7",
                          is_public=True, default_gateways=["203.0.113.1"]).commit()
pool = client.IPPools(parent_id="vips", grandparent_id="hnv", resource_id="p", start_ip_address="203.0.113.10",
                      end_ip_address="203.0.113.90").commit()
check(pool.provisioning_state == "Succeeded", "an IP pool, two levels down")
check([s.resource_id for s in client.LogicalSubnetworks.get(parent_id="hnv")] == ["vips"], "subnets are listed")
manager = client.LoadBalancerManager(
    manager_ip_address="203.0.113.10", outbound_nat_ip=[],
    vip_ip_pools=[ref("/logicalNetworks/hnv/subnets/vips/ipPools/p")]).commit()
check(manager.etag, "a singleton")

# A tenant: network, access list, route table, interface.
acl = client.AccessControlLists(resource_id="web", inbound_action="Deny", outbound_action="Permit", acl_rules=[])
acl.commit()
client.ACLRules(parent_id="web", resource_id="http", action="Allow", destination_prefix="*", destination_port_range="80",
                source_prefix="*", source_port_range="*", description="web", logging="Enabled", priority="200",
                protocol="TCP", rule_type="Inbound").commit()
check(client.AccessControlLists.get(resource_id="web").acl_rules[0].resource_id == "http", "a rule is in its list")
client.RouteTables(resource_id="rt", routes=[]).commit()
client.Routes(parent_id="rt", resource_id="r", address_prefix="10.9.0.0/16", next_hop_type="VirtualAppliance",
              next_hop_ip_address="10.0.0.200").commit()
network = client.VirtualNetworks(resource_id="blue", logical_network=ref("/logicalNetworks/hnv"), subnetworks=[],
                                 address_space=client.AddressSpace(address_prefixes=["10.0.0.0/16"])).commit()
client.SubNetworks(parent_id="blue", resource_id="s", address_prefix="10.0.0.0/24",
                   access_control_list=ref("/accessControlLists/web")).commit()
network.refresh()
check(network.subnetworks[0].address_prefix == "10.0.0.0/24", "a subnet is in its network")
check(network.subnetworks[0].access_control_list.get_resource().resource_id == "web", "a reference is followed")
client.NetworkInterfaces(
    resource_id="nic", mac_address="00155D010203", mac_allocation_method="Static",
    ip_configurations=[client.IPConfiguration(
        parent_id="nic", resource_id="ip", private_ip_address="10.0.0.5", private_ip_allocation_method="Static",
        subnet=ref("/virtualNetworks/blue/subnets/s"))]).commit()
nic = client.NetworkInterfaces.get(resource_id="nic")
check(nic.mac_address == "00155D010203" and nic.ip_configurations[0].private_ip_address == "10.0.0.5", "an interface")

# What the world reaches.
client.PublicIPAddresses(resource_id="vip", ip_address="203.0.113.20", allocation_method="Static",
                         idle_timeout=4).commit()
client.LoadBalancers(resource_id="lb", frontend_ip_configurations=[], backend_address_pools=[], load_balancing_rules=[],
                     inbound_nat_rules=[], outbound_nat_rules=[], probes=[]).commit()
client.FrontendIPConfigurations(parent_id="lb", resource_id="fe",
                                public_ip_address=ref("/publicIPAddresses/vip")).commit()
client.BackendAddressPools(parent_id="lb", resource_id="be").commit()
client.Probes(parent_id="lb", resource_id="alive", protocol="TCP", port="80", interval=5, number_of_probes=11).commit()
client.LoadBalancingRules(
    parent_id="lb", resource_id="http", protocol="Tcp", frontend_port=80, backend_port=80, idle_timeout=4,
    floating_ip=False, load_distribution="Default", probe=ref("/loadBalancers/lb/probes/alive"),
    backend_address_pool=ref("/loadBalancers/lb/backendAddressPools/be"),
    frontend_ip_configurations=[ref("/loadBalancers/lb/frontendIPConfigurations/fe")]).commit()
balancer = client.LoadBalancers.get(resource_id="lb")
check(balancer.load_balancing_rules[0].frontend_port == 80, "a rule of a load balancer")
check(client.FrontendIPConfigurations.get(parent_id="lb", resource_id="fe").load_balancing_rules[0].resource_ref
      == "/loadBalancers/lb/loadBalancingRules/http", "a back reference")

# Changes: by the etag that was read, and by one that is old.
probe = client.Probes.get(parent_id="lb", resource_id="alive")
probe.update({"port": "81"})
probe.commit(if_match=True)
check(str(client.Probes.get(parent_id="lb", resource_id="alive").port) == "81", "a change")

# Refusals are the client's own errors.
try:
    client.SubNetworks(parent_id="blue", resource_id="bad", address_prefix="2221.1.1.0/24").commit()
    check(False, "a bad prefix is refused")
except exception.ServiceException as error:
    check("2221.1.1.0" in str(error) or "addressPrefix" in str(error), "a bad prefix is refused, by name")

client.LoadBalancers.remove(resource_id="lb", timeout=5)
check(gone(client.LoadBalancers, resource_id="lb"), "a load balancer is deleted with its parts")
client.NetworkInterfaces.remove(resource_id="nic", timeout=5)
client.SubNetworks.remove(parent_id="blue", resource_id="s", timeout=5)
client.VirtualNetworks.remove(resource_id="blue", timeout=5)
client.Routes.remove(parent_id="rt", resource_id="r", timeout=5)
client.AccessControlLists.remove(resource_id="web", timeout=5)
check(gone(client.VirtualNetworks, resource_id="blue"), "a network is deleted")
print("all good")
