//! What a site has once: credentials, name service, audit, backup ([MS-NCNBI] 3.1.5.2, 3.1.5.20, 3.1.5.22 and after).
use super::*;

pub(super) const CREDENTIALS: Kind = kind(
    "credentials",
    Stored,
    &[
        req(
            "type",
            OneOf(&[
                "usernamePassword",
                "X509Certificate",
                "SnmpCommunityString",
                "GroupManagedServiceAccount",
                "X509CertificateSubjectName",
            ]),
        ),
        opt("userName", Text),
        secret("value", Text),
    ],
    &[],
);

pub(super) const I_DNS_SERVER: Kind = single("iDnsServer", "configuration", Stored, &[CONNECTIONS, opt("zone", Text)]);

pub(super) const AUDITING_SETTINGS: Kind =
    single("auditingSettings", "configuration", Stored, &[opt("outputDirectory", Text)]);

pub(super) const MULTISITE: Kind = single("multisite", "configuration", Stored, &[]);

pub(super) const MULTISITE_PRIMARY: Kind = single("multisitePrimary", "configuration", Stored, &[opt("force", Bool)]);

pub(super) const DIAGNOSTICS: Kind = kind("diagnostics", Stored, &[], &[]);

pub(super) const NETWORK_CONTROLLER_BACKUP: Kind =
    kind("networkControllerBackup", Stored, &[opt("backupPath", Text), opt("credential", Ref(&["credentials"]))], &[]);

pub(super) const NETWORK_CONTROLLER_RESTORE: Kind = kind(
    "networkControllerRestore",
    Stored,
    &[opt("restorePath", Text), opt("credential", Ref(&["credentials"]))],
    &[],
);
