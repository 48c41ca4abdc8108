use super::*;

fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("vipd-control-{}-{name}.sock", std::process::id()))
}

#[tokio::test]
async fn a_question_reaches_the_driver_and_its_answer_comes_back() {
    let path = socket("ask");
    let (sender, mut questions) = mpsc::channel::<Question>(1);
    let control = Control::listen(&path, Access::Control, sender).await.unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let driver = tokio::spawn(async move {
        let (request, answer) = questions.recv().await.unwrap();
        assert_eq!(request, Request::Status);
        answer.send(Answer::Now(Response::Error("not now".to_owned()))).unwrap();
    });
    let response = ask(&path, Request::Status).await.unwrap();
    assert_eq!(response, Response::Error("not now".to_owned()));
    driver.await.unwrap();
    drop(control);
    assert!(!path.exists(), "the file goes with the socket");
}

#[tokio::test]
async fn a_second_vipd_is_refused_and_a_dead_one_s_file_replaced() {
    let path = socket("second");
    let (sender, _questions) = mpsc::channel(1);
    let first = Control::listen(&path, Access::Control, sender.clone()).await.unwrap();
    let second = Control::listen(&path, Access::Control, sender.clone()).await;
    assert!(matches!(second, Err(Error::InUse(_))), "{second:?}");
    drop(first);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    Control::listen(&path, Access::Control, sender).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_not_removed() {
    let path = socket("file");
    std::fs::write(&path, "precious").unwrap();
    let (sender, _questions) = mpsc::channel(1);
    let refused = Control::listen(&path, Access::Control, sender).await;
    assert!(matches!(refused, Err(Error::Listen { .. })), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn nobody_there_is_said_with_the_path() {
    let path = socket("nobody");
    let error = ask(&path, Request::Status).await.unwrap_err();
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

#[tokio::test]
async fn nonsense_is_answered_with_an_error() {
    let path = socket("nonsense");
    let (sender, _questions) = mpsc::channel(1);
    let _control = Control::listen(&path, Access::Control, sender).await.unwrap();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"\"reboot\"\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("not a request"), "{answer}");
}

#[tokio::test]
async fn the_socket_for_hints_is_everybodys_and_takes_nothing_else() {
    let path = socket("hints");
    let (sender, mut questions) = mpsc::channel::<Question>(1);
    let _control = Control::listen(&path, Access::Hints, sender).await.unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
    for request in [Request::Status, Request::Reload] {
        let response = ask(&path, request).await.unwrap();
        assert!(matches!(response, Response::Error(_)), "{response:?}");
    }
    let words = ["m", "leader", "start", "198.18.0.101", "1", "198.18.0.102", "2"];
    let hint = Hint::from_arguments(&words.map(str::to_owned)).unwrap();
    let expected = Request::Notify(hint.clone());
    let driver = tokio::spawn(async move {
        let (request, answer) = questions.recv().await.unwrap();
        answer.send(Answer::Now(Response::Done)).unwrap();
        request
    });
    assert_eq!(ask(&path, Request::Notify(hint)).await.unwrap(), Response::Done);
    assert_eq!(driver.await.unwrap(), expected, "and the first two never arrived");
}

fn switchover() -> (Order, Step) {
    let order = Order { master: "mymaster".to_owned(), to: None, timeout_ms: 5000, dry_run: false };
    (order, Step { after_us: 1, what: "paused".to_owned() })
}

#[tokio::test]
async fn an_answer_in_steps_is_heard_step_by_step() {
    let path = socket("steps");
    let (sender, mut questions) = mpsc::channel::<Question>(1);
    let _control = Control::listen(&path, Access::Control, sender).await.unwrap();
    let (order, step) = switchover();
    let asked = Request::Switchover(order.clone());
    let answered = step.clone();
    let driver = tokio::spawn(async move {
        let (request, answer) = questions.recv().await.unwrap();
        assert_eq!(request, asked);
        let (told, steps) = steps();
        answer.send(Answer::Steps(steps)).unwrap();
        for response in [Response::Step(answered.clone()), Response::Step(answered)] {
            told.send(response).await.unwrap();
        }
        told.send(Response::Done).await.unwrap();
    });
    let mut heard = Vec::new();
    let last = switch_over(&path, order, |step| heard.push(step.clone())).await.unwrap();
    driver.await.unwrap();
    assert_eq!((last, heard), (Response::Done, vec![step.clone(), step]));
}

#[tokio::test]
async fn who_leaves_early_stops_nothing() {
    let path = socket("leaves");
    let (sender, mut questions) = mpsc::channel::<Question>(1);
    let _control = Control::listen(&path, Access::Control, sender).await.unwrap();
    let (order, step) = switchover();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(&line(&Request::Switchover(order))).await.unwrap();
    let (_, answer) = questions.recv().await.unwrap();
    let (told, steps) = steps();
    answer.send(Answer::Steps(steps)).unwrap();
    drop(stream);
    // Whoever tells never waits, and learns at some point that nobody listens.
    while told.send(Response::Step(step.clone())).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn only_root_may_switch_over() {
    let path = socket("switchover");
    let (sender, _questions) = mpsc::channel::<Question>(1);
    let _control = Control::listen(&path, Access::Hints, sender).await.unwrap();
    let last = switch_over(&path, switchover().0, |_| ()).await.unwrap();
    assert!(matches!(last, Response::Error(_)), "{last:?}");
}
