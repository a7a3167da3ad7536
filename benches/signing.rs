//! The parts of a token request that cost processor time, one by one: `cargo bench --bench signing`.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;

use criterion::Criterion;
use sealwright::form::Form;
use sealwright::issue::{AccessClaims, Audience};
use sealwright::keys::{Jws, KeyEntry, KeyPair, KeyRing, KeyState, Signer, SigningQueue, Typ};
use sealwright::store::signing_keys::Times;
use sealwright::wire::Algorithm;
use tokio::runtime::Runtime;

// The program's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MAX_TOKEN: usize = 16 * 1024;
const FORM: &[u8] = b"grant_type=client_credentials&scope=orders%3Aread+orders%3Awrite\
    &resource=https%3A%2F%2Fapi.example.com&client_id=orders-sync\
    &client_secret=sws_0123456789012345678901234567890123456789012345678";

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let queue = SigningQueue::of_this_machine();
    let algorithms = [Algorithm::EdDsa, Algorithm::Rs256, Algorithm::Es256];
    let signers = algorithms.map(|algorithm| signer(algorithm, &queue));
    let signers = signers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let ring = KeyRing::new(signers.iter().map(entry).collect());
    for signer in &signers {
        signing(&mut criterion, &runtime, &ring, signer)?;
    }
    Form::parse(FORM)?;
    criterion.bench_function("form/parse", |bencher| bencher.iter(|| Form::parse(black_box(FORM))));
    criterion.final_summary();
    Ok(())
}

fn signer(algorithm: Algorithm, queue: &SigningQueue) -> Result<Arc<Signer>, Box<dyn Error>> {
    let (pair, _) = KeyPair::generate(algorithm, 2048)?;
    let kid = pair.public_jwk().thumbprint();
    Ok(Arc::new(Signer::new(&kid, algorithm.as_str(), pair, queue.clone())?))
}

fn entry(signer: &Arc<Signer>) -> KeyEntry {
    KeyEntry {
        kid: signer.kid().to_owned(),
        algorithm: signer.algorithm(),
        alg_name: signer.alg_name().to_owned(),
        state: KeyState::Active,
        created_at: 0,
        times: Times::default(),
        public: signer.pair().public_jwk().clone(),
        signer: Some(Arc::clone(signer)),
    }
}

/// Making a token, reading it and checking its signature.
fn signing(
    criterion: &mut Criterion,
    runtime: &Runtime,
    ring: &KeyRing,
    signer: &Signer,
) -> Result<(), Box<dyn Error>> {
    let name = signer.algorithm();
    let claims = AccessClaims {
        iss: "https://login.example.com".to_owned(),
        sub: "orders-sync".to_owned(),
        aud: Audience::One("https://api.example.com".to_owned()),
        client_id: "orders-sync".to_owned(),
        scope: "orders:read orders:write".parse()?,
        iat: 1_700_000_000,
        exp: 1_700_000_300,
        jti: "AAAAAAAAAAAAAAAAAAAAAA".to_owned(),
        auth_time: None,
        acr: None,
    };
    let sign = || runtime.block_on(signer.sign(Typ::AccessToken, black_box(&claims)));
    let token = sign()?;
    let jws = Jws::parse(&token, MAX_TOKEN)?;
    ring.verify_own(&jws)?;
    criterion.bench_function(&format!("sign/{name}"), |bencher| bencher.iter(sign));
    criterion.bench_function(&format!("verify_own/{name}"), |bencher| {
        bencher.iter(|| ring.verify_own(black_box(&jws)).is_ok());
    });
    criterion.bench_function(&format!("jws/parse/{name}"), |bencher| {
        bencher.iter(|| Jws::parse(black_box(&token), MAX_TOKEN));
    });
    Ok(())
}
