/* TLS of the VNC display, by GnuTLS: a certificate, or anonymous key exchange for viewers that check nobody's identity. */
#include <gio/gio.h>

#include "display/vnc_gate.h"

/* Anonymous key exchange ended with TLS 1.2. */
#define PRIORITY_X509 "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"
#define PRIORITY_ANONYMOUS "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+ANON-ECDH:+ANON-DH"

struct vnc_tls {
	gnutls_certificate_credentials_t certificate;
	gnutls_anon_server_credentials_t anonymous;
	gnutls_priority_t priority[VNC_TLS_KINDS];
};

static bool fail(GError **error, const char *what, int r)
{
	g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "--display vnc: %s: %s", what, gnutls_strerror(r));
	return false;
}

/* GnuTLS does not say which file it cannot read. */
static bool readable(const char *path, GError **error)
{
	g_autofree char *text = NULL;

	if (g_file_get_contents(path, &text, NULL, error))
		return true;
	g_prefix_error(error, "--display vnc: ");
	return false;
}

static bool load_certificate(struct vnc_tls *t, const char *certificate, const char *key, GError **error)
{
	g_autofree char *what = NULL;
	int r;

	if (!readable(certificate, error) || !readable(key, error))
		return false;
	what = g_strdup_printf("tls-cert=%s, tls-key=%s", certificate, key);
	r = gnutls_certificate_allocate_credentials(&t->certificate);
	if (!r)
		r = gnutls_certificate_set_x509_key_file(t->certificate, certificate, key, GNUTLS_X509_FMT_PEM);
	if (r >= 0)
		r = gnutls_priority_init(&t->priority[VNC_TLS_X509], PRIORITY_X509, NULL);
	return r >= 0 || fail(error, what, r);
}

static bool allow_anonymous(struct vnc_tls *t, GError **error)
{
	int r = gnutls_anon_allocate_server_credentials(&t->anonymous);

	if (!r)
		r = gnutls_anon_set_server_known_dh_params(t->anonymous, GNUTLS_SEC_PARAM_MEDIUM);
	if (!r)
		r = gnutls_priority_init(&t->priority[VNC_TLS_ANONYMOUS], PRIORITY_ANONYMOUS, NULL);
	return !r || fail(error, "tls=anonymous", r);
}

struct vnc_tls *vnc_tls_create(const char *certificate, const char *key, bool anonymous, GError **error)
{
	struct vnc_tls *t = g_new0(struct vnc_tls, 1);

	if ((!certificate || load_certificate(t, certificate, key, error)) && (!anonymous || allow_anonymous(t, error)))
		return t;
	vnc_tls_destroy(t);
	return NULL;
}

bool vnc_tls_has(const struct vnc_tls *t, enum vnc_tls_kind kind)
{
	return kind == VNC_TLS_X509 ? !!t->certificate : !!t->anonymous;
}

gnutls_session_t vnc_tls_accept(const struct vnc_tls *t, enum vnc_tls_kind kind, int fd)
{
	gnutls_session_t s;

	if (gnutls_init(&s, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL))
		return NULL;
	if (gnutls_priority_set(s, t->priority[kind]) ||
	    (kind == VNC_TLS_X509 ? gnutls_credentials_set(s, GNUTLS_CRD_CERTIFICATE, t->certificate)
				  : gnutls_credentials_set(s, GNUTLS_CRD_ANON, t->anonymous))) {
		gnutls_deinit(s);
		return NULL;
	}
	gnutls_transport_set_int(s, fd);
	return s;
}

void vnc_tls_destroy(struct vnc_tls *t)
{
	if (!t)
		return;
	if (t->certificate)
		gnutls_certificate_free_credentials(t->certificate);
	if (t->anonymous)
		gnutls_anon_free_server_credentials(t->anonymous);
	for (unsigned i = 0; i < VNC_TLS_KINDS; i++)
		if (t->priority[i])
			gnutls_priority_deinit(t->priority[i]);
	g_free(t);
}
