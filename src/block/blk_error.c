/*
 * Requests that the host could not carry out. By the policy the device hears of the error, or the request waits as it is
 * until the machine goes on and it is tried anew: the guest never knows.
 */
#include <errno.h>

#include "block/request.h"

static bool is_full(int result)
{
	return result == -ENOSPC || result == -EDQUOT;
}

/* Errors of the host's storage, in contrast to those that the request itself is to blame for. */
static bool is_host_error(int result)
{
	switch (result) {
	case 0: case -EINVAL: case -EROFS: case -EPERM: case -ENOTSUP:
		return false;
	default:
		return true;
	}
}

static bool is_write(const struct request *r)
{
	return r->kind != REQ_READ;
}

static bool policy_stops(const struct blk_error_policy *p, const struct request *r)
{
	enum blk_on_error action = is_write(r) ? p->write : p->read;

	if (action == BLK_ERROR_DEFAULT)
		action = is_write(r) ? BLK_ERROR_ENOSPC : BLK_ERROR_REPORT;
	return action == BLK_ERROR_STOP || (action == BLK_ERROR_ENOSPC && is_full(r->result));
}

bool blk_keep_failed(struct blk *b, struct request *r)
{
	struct blk_failure f = { .write = is_write(r), .error = -r->result };

	if (!b->policy.failed || !is_host_error(r->result))
		return false;
	pthread_mutex_lock(&b->lock);
	f.waits = !b->draining && policy_stops(&b->policy, r);
	if (f.waits) {
		r->next = NULL;
		*b->failed_end = r;
		b->failed_end = &r->next;
		b->kept++;
		if (b->kept == b->in_flight)
			pthread_cond_broadcast(&b->idle);
	}
	pthread_mutex_unlock(&b->lock);
	b->policy.failed(b->policy.opaque, &f);
	return f.waits;
}

void blk_set_error_policy(struct blk *b, const struct blk_error_policy *p)
{
	b->policy = *p;
}

void blk_settle(struct blk *b)
{
	if (b->vm_lock)
		pthread_mutex_unlock(b->vm_lock);
	pthread_mutex_lock(&b->lock);
	while (b->in_flight > b->kept)
		pthread_cond_wait(&b->idle, &b->lock);
	pthread_mutex_unlock(&b->lock);
	if (b->vm_lock)
		pthread_mutex_lock(b->vm_lock);
}

void blk_retry(struct blk *b)
{
	struct request *list;

	pthread_mutex_lock(&b->lock);
	list = b->failed;
	b->failed = NULL;
	b->failed_end = &b->failed;
	b->kept = 0;
	pthread_mutex_unlock(&b->lock);
	while (list) {
		struct request *r = list;

		list = r->next;
		r->result = 0;
		blk_start(b, r);
	}
}
