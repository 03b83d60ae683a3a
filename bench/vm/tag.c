/* A VLAN on the cable to the machine, for one address alone: on the switch's port to the machine,
 * frames for TAGGED_VIP (IPv4, and ARP that asks for it) leave with a tag, and tagged ones come
 * back without. Clients and back ends know nothing of it, and no VLAN support is asked of the
 * host's kernel. Loaded by tc, see lab.sh; -D gives TAGGED_VIP (host order) and VLAN. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#define PLACE(name) __attribute__((section(name), used))

static long (*const load_bytes)(const void *, __u32, void *, __u32) =
	(void *)BPF_FUNC_skb_load_bytes;
static long (*const vlan_push)(struct __sk_buff *, __u16, __u16) = (void *)BPF_FUNC_skb_vlan_push;
static long (*const vlan_pop)(struct __sk_buff *) = (void *)BPF_FUNC_skb_vlan_pop;

/* Offsets from the Ethernet header: RFC 791 destination address, RFC 826 target address. */
enum { IPV4_DESTINATION = 14 + 16, ARP_TARGET = 14 + 24 };

PLACE("tag") int push_tag(struct __sk_buff *skb)
{
	__u32 offset, address;

	if (skb->protocol == __builtin_bswap16(ETH_P_IP))
		offset = IPV4_DESTINATION;
	else if (skb->protocol == __builtin_bswap16(ETH_P_ARP))
		offset = ARP_TARGET;
	else
		return TC_ACT_OK;
	if (load_bytes(skb, offset, &address, sizeof(address)))
		return TC_ACT_OK;
	if (address == __builtin_bswap32(TAGGED_VIP))
		vlan_push(skb, __builtin_bswap16(ETH_P_8021Q), VLAN);
	return TC_ACT_OK;
}

PLACE("untag") int pop_tag(struct __sk_buff *skb)
{
	if (skb->vlan_present)
		vlan_pop(skb);
	return TC_ACT_OK;
}
