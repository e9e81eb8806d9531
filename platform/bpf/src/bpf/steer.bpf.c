/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The steering program: nothing but steering. */
#include "steer.h"

SEC("xdp")
int penstock_steer(struct xdp_md *ctx)
{
	return steer(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
