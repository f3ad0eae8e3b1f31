// SPDX-License-Identifier: Apache-2.0
//
// What the engine is measured against: a balancer as nfqlb's loop is, with
// libmnl, one receive and one verdict for each packet. It knows one flow, TCP
// and UDP to a range of ports, and no fragments, which makes it a little
// faster than nfqlb.
//
//   mnl QUEUE TABLE FIRST-PORT LAST-PORT
//
// TABLE is a shared table's file. "ready" is printed once the queue is bound.

#include <arpa/inet.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { MTU = 1500, QUEUE_LENGTH = 1024 };

// Addresses, and what else tells connections apart.
struct key {
	uint8_t src[16], dst[16];
	uint16_t id, proto, sport, dport;
};

static uint16_t first_port, last_port;
static unsigned m;
static const int *lookup, *active;

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

// map_table finds the parts of a shared table: own mark, M, N, a length, then
// lookup[M], permutations[N][M], active[N].
static void map_table(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY);
	if (fd < 0 || fstat(fd, &st) < 0)
		die(path);
	const int *t = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (t == MAP_FAILED)
		die("mmap");
	m = t[1];
	lookup = t + 4;
	active = lookup + m + (size_t)m * t[2];
}

static int parse(const uint8_t *p, unsigned len, struct key *k)
{
	static const uint8_t mapped[12] = {[10] = 0xff, 0xff};
	unsigned l4;
	memset(k, 0, sizeof(*k));
	if (len >= 20 && p[0] >> 4 == 4) {
		memcpy(k->src, mapped, 12);
		memcpy(k->src + 12, p + 12, 4);
		memcpy(k->dst, mapped, 12);
		memcpy(k->dst + 12, p + 16, 4);
		k->proto = p[9];
		l4 = (p[0] & 15) * 4;
	} else if (len >= 40 && p[0] >> 4 == 6) {
		memcpy(k->src, p + 8, 16);
		memcpy(k->dst, p + 24, 16);
		k->proto = p[6];
		l4 = 40;
	} else {
		return -1;
	}
	if (k->proto != IPPROTO_TCP && k->proto != IPPROTO_UDP)
		return -1;
	if (len < l4 + 4)
		return -1;
	memcpy(&k->sport, p + l4, 4);
	return 0;
}

static uint32_t hash(const struct key *k)
{
	const uint8_t *p = (const uint8_t *)k;
	uint32_t h = 5381;
	for (unsigned i = 0; i < sizeof(*k); i++)
		h = h * 33 + p[i];
	return h;
}

static int decide(const uint8_t *packet, unsigned len)
{
	struct key k;
	if (parse(packet, len, &k) < 0)
		return -1;
	uint16_t port = ntohs(k.dport);
	if (port < first_port || port > last_port)
		return -1;
	int index = lookup[hash(&k) % m];
	return index < 0 ? -1 : active[index];
}

static struct nlmsghdr *message(void *buf, int type, uint16_t queue)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	nlh->nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | type;
	nlh->nlmsg_flags = NLM_F_REQUEST;
	struct nfgenmsg *nfg = mnl_nlmsg_put_extra_header(nlh, sizeof(*nfg));
	nfg->nfgen_family = AF_UNSPEC;
	nfg->version = NFNETLINK_V0;
	nfg->res_id = htons(queue);
	return nlh;
}

static void send_verdict(struct mnl_socket *nl, uint16_t queue, uint32_t id, int mark)
{
	char buf[MNL_SOCKET_BUFFER_SIZE];
	struct nlmsghdr *nlh = message(buf, NFQNL_MSG_VERDICT, queue);
	struct nfqnl_msg_verdict_hdr v = {htonl(mark < 0 ? NF_DROP : NF_ACCEPT), htonl(id)};
	mnl_attr_put(nlh, NFQA_VERDICT_HDR, sizeof(v), &v);
	mnl_attr_put_u32(nlh, NFQA_MARK, htonl(mark < 0 ? 0 : mark));
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		die("verdict");
}

static int attribute(const struct nlattr *attr, void *data)
{
	const struct nlattr **attrs = data;
	if (mnl_attr_type_valid(attr, NFQA_MAX) > 0)
		attrs[mnl_attr_get_type(attr)] = attr;
	return MNL_CB_OK;
}

static int packet(const struct nlmsghdr *nlh, void *data)
{
	const struct nlattr *attrs[NFQA_MAX + 1] = {};
	if (mnl_attr_parse(nlh, sizeof(struct nfgenmsg), attribute, attrs) < 0)
		return MNL_CB_ERROR;
	if (!attrs[NFQA_PACKET_HDR] || !attrs[NFQA_PAYLOAD])
		return MNL_CB_ERROR;
	const struct nfgenmsg *nfg = mnl_nlmsg_get_payload(nlh);
	const struct nfqnl_msg_packet_hdr *h = mnl_attr_get_payload(attrs[NFQA_PACKET_HDR]);
	int mark = decide(mnl_attr_get_payload(attrs[NFQA_PAYLOAD]),
			  mnl_attr_get_payload_len(attrs[NFQA_PAYLOAD]));
	send_verdict(data, ntohs(nfg->res_id), ntohl(h->packet_id), mark);
	return MNL_CB_OK;
}

// configure sends one change and waits for the kernel's answer.
static void configure(struct mnl_socket *nl, struct nlmsghdr *nlh)
{
	char buf[MNL_SOCKET_BUFFER_SIZE];
	nlh->nlmsg_flags |= NLM_F_ACK;
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		die("configure");
	int n = mnl_socket_recvfrom(nl, buf, sizeof(buf));
	if (n < 0 || mnl_cb_run(buf, n, 0, mnl_socket_get_portid(nl), NULL, NULL) < 0)
		die("configure");
}

int main(int argc, char **argv)
{
	if (argc != 5) {
		fprintf(stderr, "usage: mnl QUEUE TABLE FIRST-PORT LAST-PORT\n");
		return 2;
	}
	uint16_t queue = atoi(argv[1]);
	map_table(argv[2]);
	first_port = atoi(argv[3]);
	last_port = atoi(argv[4]);

	struct mnl_socket *nl = mnl_socket_open(NETLINK_NETFILTER);
	if (!nl || mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0)
		die("netlink");
	size_t size = MTU + MNL_SOCKET_BUFFER_SIZE / 2;
	char *buf = malloc(size);
	if (!buf)
		die("malloc");

	struct nlmsghdr *nlh = message(buf, NFQNL_MSG_CONFIG, queue);
	struct nfqnl_msg_config_cmd bind = {.command = NFQNL_CFG_CMD_BIND, .pf = htons(AF_INET)};
	mnl_attr_put(nlh, NFQA_CFG_CMD, sizeof(bind), &bind);
	configure(nl, nlh);

	nlh = message(buf, NFQNL_MSG_CONFIG, queue);
	struct nfqnl_msg_config_params copy = {.copy_range = htonl(MTU),
					       .copy_mode = NFQNL_COPY_PACKET};
	mnl_attr_put(nlh, NFQA_CFG_PARAMS, sizeof(copy), &copy);
	mnl_attr_put_u32(nlh, NFQA_CFG_FLAGS, htonl(NFQA_CFG_F_GSO));
	mnl_attr_put_u32(nlh, NFQA_CFG_MASK, htonl(NFQA_CFG_F_GSO));
	mnl_attr_put_u32(nlh, NFQA_CFG_QUEUE_MAXLEN, htonl(QUEUE_LENGTH));
	configure(nl, nlh);

	int one = 1, room = QUEUE_LENGTH * MTU / 2 & ~0xfff;
	mnl_socket_setsockopt(nl, NETLINK_NO_ENOBUFS, &one, sizeof(one));
	setsockopt(mnl_socket_get_fd(nl), SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
	puts("ready");
	fflush(stdout);

	for (;;) {
		int n = mnl_socket_recvfrom(nl, buf, size);
		if (n < 0)
			die("receive");
		if (mnl_cb_run(buf, n, 0, mnl_socket_get_portid(nl), packet, nl) < 0)
			die("packet");
	}
}
