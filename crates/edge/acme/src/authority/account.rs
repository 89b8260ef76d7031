//! The account with the authority: one for all routers.

use instant_acme::{Account as Client, AccountBuilder, Key};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tracing::info;

use super::order::Context;
use super::{OrderError, Transport};
use crate::managed::KeyPem;
use crate::store::Account;

/// The account, registered if need be, and with the present address.
pub(super) async fn account(context: &Context<'_>, transport: &Transport) -> Result<Client, OrderError> {
    // Orders that begin at the same time make one account.
    let _one_at_a_time = context.accounts.lock().await;
    let directory = &context.settings.directory;
    let mut account = match context.lease.account(directory).await? {
        Some(account) => account,
        None => {
            let key = KeyPem::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem());
            let account = Account { directory: directory.clone(), key, url: None, email: None };
            context.lease.put_account(&account).await?;
            account
        }
    };
    let client = match &account.url {
        Some(url) => known(&account, url, transport).await?,
        None => register(context, &mut account, transport).await?,
    };
    if account.email != context.settings.email {
        tell_address(context, &mut account, &client).await?;
    }
    Ok(client)
}

/// Forgets that an account is registered: its authority does not know it any more.
pub(crate) async fn forget(context: &Context<'_>) -> Result<(), OrderError> {
    if let Some(account) = context.lease.account(&context.settings.directory).await? {
        context.lease.put_account(&Account { url: None, email: None, ..account }).await?;
    }
    Ok(())
}

fn builder(transport: &Transport) -> AccountBuilder {
    Client::builder_with_http(Box::new(transport.clone()))
}

fn pkcs8(account: &Account) -> Result<PrivatePkcs8KeyDer<'static>, OrderError> {
    let key = KeyPair::from_pem(account.key.reveal())?;
    Ok(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

async fn known(account: &Account, url: &str, transport: &Transport) -> Result<Client, OrderError> {
    let directory = account.directory.clone();
    let client = builder(transport).from_parts(url.to_owned(), pkcs8(account)?, directory).await;
    client.map_err(|err| OrderError::at("get the directory", &account.directory, err))
}

async fn register(context: &Context<'_>, account: &mut Account, transport: &Transport) -> Result<Client, OrderError> {
    let failed = |err| OrderError::at("register an account", &context.settings.directory, err);
    let der = pkcs8(account)?;
    let key = Key::from_pkcs8_der(der.clone_key()).map_err(failed)?;
    // A key that has an account already gets that one: doing this twice does no harm.
    let registered = builder(transport).create_from_key((key, der.into()), account.directory.clone()).await;
    let (client, _credentials) = registered.map_err(failed)?;
    account.url = Some(client.id().to_owned());
    context.lease.put_account(account).await?;
    info!(directory = account.directory, account = client.id(), "account with the certificate authority is registered");
    Ok(client)
}

async fn tell_address(context: &Context<'_>, account: &mut Account, client: &Client) -> Result<(), OrderError> {
    let contact = context.settings.email.as_ref().map(|email| format!("mailto:{email}"));
    let contacts: Vec<&str> = contact.iter().map(String::as_str).collect();
    let told = client.update_contacts(&contacts).await;
    told.map_err(|err| OrderError::at("note the e-mail address", &account.directory, err))?;
    account.email.clone_from(&context.settings.email);
    context.lease.put_account(account).await?;
    Ok(())
}
