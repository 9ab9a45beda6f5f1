"""A certificate authority that lives for a test run, or as long as a cluster that somebody keeps."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

LIFETIME = timedelta(days=2)
ISSUER = "tunesmith-testbed"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key as PEM files."""

    certificate: Path
    key: Path


def new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A P-256 key, also written to a file that only its owner can read."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return key


class Authority:
    """Signs certificates; its own is `ca.crt` in its folder, where the others are written too."""

    def __init__(self, folder: Path, lifetime: timedelta = LIFETIME) -> None:
        self._folder, self._lifetime = folder, lifetime
        self._key = new_key(folder / "ca.key")
        basic = x509.BasicConstraints(ca=True, path_length=None)
        builder = self._builder([(NameOID.COMMON_NAME, ISSUER)], self._key).add_extension(
            basic, critical=True
        )
        signs = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        self._write("ca", builder.add_extension(signs, critical=True))

    @property
    def certificate(self) -> Path:
        """The authority's own."""
        return self._folder / "ca.crt"

    def server(self, name: str, addresses: tuple[str, ...], hosts: tuple[str, ...]) -> Pair:
        """A certificate for who answers at these addresses and host names."""
        names: list[x509.GeneralName] = [x509.IPAddress(ip_address(one)) for one in addresses]
        names += [x509.DNSName(one) for one in hosts]
        key = new_key(self._folder / f"{name}.key")
        builder = self._leaf([(NameOID.COMMON_NAME, name)], key, ExtendedKeyUsageOID.SERVER_AUTH)
        return self._write(name, builder.add_extension(x509.SubjectAlternativeName(names), critical=False))

    def client(self, name: str, user: str, group: str) -> Pair:
        """A certificate for who calls as a user of a group, as Kubernetes reads it."""
        key = new_key(self._folder / f"{name}.key")
        subject = [(NameOID.ORGANIZATION_NAME, group), (NameOID.COMMON_NAME, user)]
        return self._write(name, self._leaf(subject, key, ExtendedKeyUsageOID.CLIENT_AUTH))

    def _leaf(
        self,
        subject: list[tuple[ObjectIdentifier, str]],
        key: ec.EllipticCurvePrivateKey,
        use: ObjectIdentifier,
    ) -> x509.CertificateBuilder:
        basic = x509.BasicConstraints(ca=False, path_length=None)
        builder = self._builder(subject, key).add_extension(basic, critical=True)
        return builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)

    def _builder(
        self, subject: list[tuple[ObjectIdentifier, str]], key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(*one) for one in subject]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + self._lifetime)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(issuer, critical=False)
        )

    def _write(self, name: str, builder: x509.CertificateBuilder) -> Pair:
        path = self._folder / f"{name}.crt"
        certificate = builder.sign(self._key, hashes.SHA256())
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return Pair(path, self._folder / f"{name}.key")


def server_certificate(folder: Path, name: str, addresses: tuple[str, ...], hosts: tuple[str, ...]) -> Pair:
    """A server's certificate, signed by an authority made for it: `ca.crt` in the same folder."""
    return Authority(folder).server(name, addresses, hosts)
