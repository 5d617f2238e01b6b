"""Keys, certificates and tokens of one local cluster, written below its state folder."""

import datetime as dt
import ipaddress
import secrets
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from localcluster.nodeconfig import NODE_NAME

# user -> groups; system:masters is what a cluster administrator's certificate carries.
IDENTITIES: dict[str, tuple[str, ...]] = {
    "admin": ("system:masters",),
    "kwok": ("system:masters",),
    "system:kube-controller-manager": (),
    "system:kube-scheduler": (),
}
# What the programs of a real node are.
NODE_IDENTITIES: dict[str, tuple[str, ...]] = {
    f"system:node:{NODE_NAME}": ("system:nodes",),
    "system:kube-proxy": (),
    "coredns": ("system:masters",),
    "provisioner": ("system:masters",),
}
_SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
_VALIDITY = dt.timedelta(days=3650)


class Authority:
    """A certificate authority whose certificate is written as `<name>.crt` in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name(name)
        builder = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_signing_usage(), critical=True)
        )
        _write(folder / f"{name}.crt", builder.sign(self._key, hashes.SHA256()))
        _write_key(folder / f"{name}.key", self._key)

    def server(self, name: str, addresses: tuple[str, ...]) -> None:
        """Write `<name>.crt` and `<name>.key` of a server under the API server's names and `addresses`."""
        names: list[x509.GeneralName] = [x509.DNSName(dns) for dns in _SERVER_NAMES]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        self._leaf(name, _common_name(name), ExtendedKeyUsageOID.SERVER_AUTH, names)

    def client(self, name: str, organization: str | None = None) -> None:
        """Write `<name>.crt` and `<name>.key` of a client in group `organization`."""
        self._leaf(name, _common_name(name, organization), ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def _leaf(self, name: str, subject: x509.Name, usage: x509.ObjectIdentifier, names: list[x509.GeneralName]) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(subject, self._name, key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        _write(self._folder / f"{name}.crt", builder.sign(self._key, hashes.SHA256()))
        _write_key(self._folder / f"{name}.key", key)


def create(folder: Path, addresses: tuple[str, ...], identities: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Write everything that the API server and its clients need into `folder`.

    Args:
        folder: created with mode 0700.
        addresses: IP addresses that the API server answers on.
        identities: users and their groups.

    Returns:
        The bearer token of each user.
    """
    folder.mkdir(parents=True, mode=0o700)
    cluster = Authority(folder, "ca")
    cluster.server("apiserver", addresses)
    cluster.client("kubelet-client", organization="system:masters")
    # The aggregation layer's authority must not be the clients' one: whoever it signs may speak for any user.
    Authority(folder, "front-proxy-ca").client("front-proxy-client")
    service_accounts = ec.generate_private_key(ec.SECP256R1())
    _write_key(folder / "service-account.key", service_accounts)
    public = service_accounts.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "service-account.pub").write_bytes(public)
    return _write_tokens(folder / "tokens.csv", identities)


def _write_tokens(path: Path, identities: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    tokens = {user: secrets.token_hex(16) for user in identities}
    lines = [
        ",".join([tokens[user], user, user, *([f'"{",".join(groups)}"'] if groups else [])])
        for user, groups in identities.items()
    ]
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")
    return tokens


def _common_name(name: str, organization: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if organization:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    # An hour back, so that a clock that is a little off does not reject a new certificate.
    begin = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + _VALIDITY)
    )


def _signing_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
