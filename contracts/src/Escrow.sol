// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {IEscrow} from "./IEscrow.sol";

/// @title Escrow
/// @notice See IEscrow. Only deposit* and withdraw touch tokens; all else moves numbers.
contract Escrow is IEscrow, Multicall, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    struct Account {
        uint128 free;
        uint128 stake;
    }

    struct Thaw {
        uint128 amount;
        uint40 thawedAt;
    }

    struct Authorisation {
        uint128 allowance;
        uint40 expiry;
    }

    /// @dev The second slot of an agreement, written only when one of its fields leaves zero.
    struct Extra {
        uint96 deposit;
        uint32 duration;
        uint96 offline;
    }

    uint256 private constant BPS = 10_000;

    bytes32 private constant DOMAIN_TYPEHASH = keccak256(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    );
    bytes32 private constant PARTIES_TYPEHASH = keccak256(
        "Parties(address requester,address provider,address requesterSigner,address providerSigner,address token,address arbiter)"
    );
    bytes32 private constant MONEY_TYPEHASH = keccak256(
        "Money(uint96 deposit,uint96 collateral,uint96 pricePerHour,uint96 bond,uint16 slashBps,uint16 victimShareBps,uint16 equivocationBps)"
    );
    bytes32 private constant TIMING_TYPEHASH = keccak256(
        "Timing(uint40 openBy,uint32 duration,uint32 startGrace,uint32 window,uint32 claimWindow,uint32 offlineAllowance,uint32 arbiterWindow)"
    );
    bytes32 private constant TERMS_TYPEHASH = keccak256(
        "Terms(Parties parties,Money money,Timing timing,uint256 units,bytes32 job,bytes32 salt)"
        "Money(uint96 deposit,uint96 collateral,uint96 pricePerHour,uint96 bond,uint16 slashBps,uint16 victimShareBps,uint16 equivocationBps)"
        "Parties(address requester,address provider,address requesterSigner,address providerSigner,address token,address arbiter)"
        "Timing(uint40 openBy,uint32 duration,uint32 startGrace,uint32 window,uint32 claimWindow,uint32 offlineAllowance,uint32 arbiterWindow)"
    );
    bytes32 private constant VOUCHER_TYPEHASH =
        keccak256("Voucher(bytes32 agreement,uint96 amount,bytes32 ack,bool last)");
    bytes32 private constant HEARTBEAT_TYPEHASH = keccak256(
        "Heartbeat(bytes32 agreement,uint64 sequence,uint40 at,uint32 meteredSeconds,uint48 challenge,bytes32 state)"
    );
    bytes32 private constant SETTLEMENT_TYPEHASH =
        keccak256("Settlement(bytes32 agreement,uint96 paid,uint96 slashed)");
    bytes32 private constant EXTENSION_TYPEHASH =
        keccak256("Extension(bytes32 agreement,uint96 deposit,uint32 duration)");

    uint32 private immutable MIN_WINDOW;
    uint32 private immutable MAX_WINDOW;
    uint32 private immutable MIN_CLAIM_WINDOW;
    uint32 private immutable MAX_CLAIM_WINDOW;
    uint32 private immutable MAX_DURATION;
    uint32 private immutable THAW_PERIOD;
    uint256 private immutable CHAIN_ID;
    bytes32 private immutable DOMAIN_SEPARATOR;

    /// @dev token => account
    mapping(address => mapping(address => Account)) private _accounts;
    /// @dev token => account
    mapping(address => mapping(address => Thaw)) private _thaws;
    /// @dev account => operator => token
    mapping(address => mapping(address => mapping(address => Authorisation))) private
        _authorisations;
    /// @dev One packed word per agreement; see _load and _store.
    mapping(bytes32 => uint256) private _agreements;
    mapping(bytes32 => Extra) private _extras;
    /// @dev provider => units 0-254 that are taken. Bit 255 only marks that the slot is in use: a
    /// slot that never returns to zero costs a provider that was idle 17,100 gas less to open.
    mapping(address => uint256) private _units;
    /// @dev provider => whether unit 255 is taken
    mapping(address => bool) private _unit255;

    mapping(address => uint256) public burned;

    constructor(Limits memory limits_) {
        if (
            limits_.minWindow == 0 || limits_.minWindow > limits_.maxWindow
                || limits_.minClaimWindow == 0 || limits_.minClaimWindow > limits_.maxClaimWindow
                || limits_.maxDuration == 0
        ) revert Escrow_BadLimits();
        MIN_WINDOW = limits_.minWindow;
        MAX_WINDOW = limits_.maxWindow;
        MIN_CLAIM_WINDOW = limits_.minClaimWindow;
        MAX_CLAIM_WINDOW = limits_.maxClaimWindow;
        MAX_DURATION = limits_.maxDuration;
        THAW_PERIOD = limits_.thawPeriod;
        CHAIN_ID = block.chainid;
        DOMAIN_SEPARATOR = _domain();
    }

    // ------------------------------------------------------------------------------- the accounts

    function deposit(address token, uint256 amount) external nonReentrant {
        _deposit(token, msg.sender, amount);
    }

    function depositFor(address token, address account, uint256 amount) external nonReentrant {
        if (account == address(0)) revert Escrow_ZeroAddress();
        _deposit(token, account, amount);
    }

    function depositWithPermit(
        address token,
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant {
        // Whoever saw the permit in the pool may have submitted it first; then the allowance is
        // there and the transfer below is the judge.
        try IERC20Permit(token).permit(msg.sender, address(this), amount, deadline, v, r, s) {}
            catch {}
        _deposit(token, msg.sender, amount);
    }

    function depositNative() external payable {
        _credit(address(0), msg.sender, msg.value);
    }

    function withdraw(address token, uint256 amount) external nonReentrant {
        _notZero(amount);
        _takeFree(token, msg.sender, amount);
        emit Withdrawn(token, msg.sender, amount);
        if (token == address(0)) {
            (bool sent,) = msg.sender.call{value: amount}("");
            if (!sent) revert Escrow_NativeTransferFailed(msg.sender, amount);
        } else {
            IERC20(token).safeTransfer(msg.sender, amount);
        }
    }

    function stake(address token, uint256 amount) external {
        _notZero(amount);
        _takeFree(token, msg.sender, amount);
        _accounts[token][msg.sender].stake += amount.toUint128();
        emit Staked(token, msg.sender, amount);
    }

    function unstake(address token, uint256 amount) external {
        _notZero(amount);
        _takeStake(token, msg.sender, amount);
        Thaw storage thaw = _thaws[token][msg.sender];
        uint128 thawing = thaw.amount + amount.toUint128();
        uint256 thawedAt = block.timestamp + THAW_PERIOD;
        thaw.amount = thawing;
        thaw.thawedAt = uint40(thawedAt);
        emit UnstakeStarted(token, msg.sender, amount, thawing, thawedAt);
    }

    function completeUnstake(address token) external {
        Thaw memory thaw = _thaws[token][msg.sender];
        _notZero(thaw.amount);
        if (block.timestamp < thaw.thawedAt) revert Escrow_StillThawing(thaw.thawedAt);
        delete _thaws[token][msg.sender];
        _accounts[token][msg.sender].free += thaw.amount;
        emit Unstaked(token, msg.sender, thaw.amount);
    }

    function authorise(address operator, address token, uint128 allowance, uint40 expiry) external {
        if (operator == address(0)) revert Escrow_ZeroAddress();
        _authorisations[msg.sender][operator][token] = Authorisation(allowance, expiry);
        emit Authorised(msg.sender, operator, token, allowance, expiry);
    }

    function revoke(address operator, address token) external {
        delete _authorisations[msg.sender][operator][token];
        emit Revoked(msg.sender, operator, token);
    }

    // ------------------------------------------------------------------------ open, cancel, extend

    function open(
        Terms calldata terms,
        bytes calldata requesterSignature,
        bytes calldata providerSignature
    ) external returns (bytes32 id) {
        return _open(terms, requesterSignature, providerSignature);
    }

    function openMany(
        Terms[] calldata terms,
        bytes[] calldata requesterSignatures,
        bytes[] calldata providerSignatures
    ) external returns (bytes32[] memory ids) {
        uint256 count = terms.length;
        if (requesterSignatures.length != count || providerSignatures.length != count) {
            revert Escrow_LengthMismatch();
        }
        ids = new bytes32[](count);
        for (uint256 i; i < count; ++i) {
            ids[i] = _open(terms[i], requesterSignatures[i], providerSignatures[i]);
        }
    }

    function cancel(Terms calldata terms) external {
        if (!_isRequester(terms) && !_isProvider(terms)) revert Escrow_NotParty(msg.sender);
        bytes32 id = agreementId(terms);
        Agreement memory a = _load(id);
        _only(id, a, Status.None);
        a.status = Status.Cancelled;
        _store(id, a);
        emit Cancelled(id);
    }

    function extend(
        Terms calldata terms,
        Extension calldata extension,
        bytes calldata requesterSignature,
        bytes calldata providerSignature
    ) external {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _only(id, a, Status.Open);
        _notAfter(_end(terms, a) - 1);
        _names(extension.agreement, id);
        uint256 added = _stepUp(extension.deposit, a.extraDeposit, type(uint96).max);
        uint256 longer = _stepUp(extension.duration, a.extraDuration, MAX_DURATION);
        _notZero(added + longer);
        _term(uint256(terms.timing.duration) + extension.duration <= MAX_DURATION, "duration");

        bytes32 digest = extensionDigest(extension);
        Parties calldata parties = terms.parties;
        _spend(
            parties.requester,
            parties.requesterSigner,
            parties.token,
            added,
            digest,
            requesterSignature
        );
        if (longer != 0) {
            _signedByEither(parties.provider, parties.providerSigner, digest, providerSignature);
        }

        _takeFree(parties.token, parties.requester, added);
        a.extraDeposit = extension.deposit;
        a.extraDuration = extension.duration;
        _store(id, a);
        _storeExtra(id, a);
        emit Extended(id, extension.deposit, extension.duration);
    }

    // -------------------------------------------------------------------------------- being paid

    function claim(Terms calldata terms, Voucher calldata voucher, bytes calldata signature)
        external
    {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        if (!_takeVoucher(terms, id, a, voucher, signature)) {
            revert Escrow_NothingToClaim(id, a.paid);
        }
        _store(id, a);
    }

    function claimOffline(
        Terms calldata terms,
        Heartbeat calldata heartbeat,
        bytes calldata signature
    ) external {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _checkHeartbeat(terms, id, heartbeat, signature);
        // After the requester's close it was not offline: only what was metered before counts.
        uint256 until = a.status == Status.ClosingByRequester
            ? a.deadline - terms.timing.claimWindow
            : block.timestamp;
        if (heartbeat.at > until) revert Escrow_TooLate(until);

        uint256 vouched = a.paid - a.offline;
        uint256 elapsed = Math.saturatingSub(heartbeat.at, a.openedAt);
        uint256 metered = accrued(terms, Math.min(heartbeat.meteredSeconds, elapsed));
        uint256 most = vouched + accrued(terms, terms.timing.offlineAllowance);
        uint256 paid = Math.min(Math.min(metered, most), _payable(terms, a));
        if (paid <= a.paid) revert Escrow_NothingToClaim(id, a.paid);
        _pay(terms, id, a, paid, paid - vouched);
        _store(id, a);
    }

    function settle(Terms calldata terms, Voucher calldata voucher, bytes calldata signature)
        external
    {
        _onlyProvider(terms);
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _takeVoucher(terms, id, a, voucher, signature);
        if (voucher.last && a.status != Status.Disputed) {
            _close(terms, id, a, Status.Closed, 0);
        } else {
            _closeByProvider(terms, id, a);
        }
    }

    function settleMany(
        Terms[] calldata terms,
        Voucher[] calldata vouchers,
        bytes[] calldata signatures
    ) external {
        uint256 count = terms.length;
        if (vouchers.length != count || signatures.length != count) revert Escrow_LengthMismatch();
        for (uint256 i; i < count; ++i) {
            // A call to ourselves, for the sender, that may fail alone.
            (bool done, bytes memory reason) =
                address(this).delegatecall(_settleCall(terms[i], vouchers[i], signatures[i]));
            if (!done) emit SettleSkipped(agreementId(terms[i]), reason);
        }
    }

    // ---------------------------------------------------------------------------------- closing

    function closeSigned(
        Terms calldata terms,
        Settlement calldata settlement,
        bytes calldata requesterSignature,
        bytes calldata providerSignature
    ) external {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _names(settlement.agreement, id);
        bytes32 digest = settlementDigest(settlement);
        Parties calldata parties = terms.parties;
        uint256 most = uint256(terms.money.deposit) + a.extraDeposit;
        if (settlement.slashed == 0) {
            bool byWallet = _signedByEither(
                parties.requester, parties.requesterSigner, digest, requesterSignature
            );
            _signedByEither(parties.provider, parties.providerSigner, digest, providerSignature);
            // A stolen hot key cannot give away more than vouchers could.
            if (!byWallet) most = Math.max(a.paid, _payable(terms, a));
        } else {
            _signedByEither(parties.requester, parties.requester, digest, requesterSignature);
            _signedByEither(parties.provider, parties.provider, digest, providerSignature);
            _checkRange(settlement.slashed, 0, terms.money.collateral);
        }
        _checkRange(settlement.paid, a.paid, most);
        if (settlement.paid > a.paid) _pay(terms, id, a, settlement.paid, 0);
        _close(
            terms,
            id,
            a,
            settlement.slashed == 0 ? Status.Closed : Status.Slashed,
            settlement.slashed
        );
    }

    function requesterClose(Terms calldata terms) external {
        _onlyRequester(terms);
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _only(id, a, Status.Open);
        a.status = Status.ClosingByRequester;
        a.deadline = uint40(block.timestamp + terms.timing.claimWindow);
        _store(id, a);
        emit Closing(id, terms.parties.requester, a.deadline);
    }

    function providerClose(Terms calldata terms) external {
        _onlyProvider(terms);
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _closeByProvider(terms, id, a);
    }

    function finalize(Terms calldata terms) external {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        if (a.status == Status.Challenged) _wrongStatus(id, a); // only slash ends a challenge
        uint256 deadline =
            a.status == Status.Open ? _end(terms, a) + terms.timing.claimWindow : a.deadline;
        _notBefore(deadline + 1);
        _close(terms, id, a, Status.Closed, 0);
    }

    // -------------------------------------------------------------------------- proof of silence

    function challenge(
        Terms calldata terms,
        Voucher calldata voucher,
        bytes calldata signature,
        uint48 nonce
    ) external {
        _onlyRequester(terms);
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        uint256 window = terms.timing.window;
        uint256 notBefore = _contestableFrom(id, a, window);
        _notBefore(notBefore);
        _notAfter(_end(terms, a) - 1);
        if (nonce == 0 || nonce == a.nonce) revert Escrow_BadNonce(nonce);

        _takeVoucher(terms, id, a, voucher, signature);
        // No challenge is possible in the first startGrace seconds, so this does not underflow.
        uint256 owed = accrued(terms, block.timestamp - a.openedAt - terms.timing.startGrace);
        if (a.paid < owed) revert Escrow_NotPaidUp(a.paid, owed);

        _lockBond(terms, id, a);
        a.status = Status.Challenged;
        a.deadline = uint40(block.timestamp + window);
        a.nonce = nonce;
        _store(id, a);
        emit Challenged(id, nonce, a.deadline);
    }

    function answer(Terms calldata terms, Heartbeat calldata heartbeat, bytes calldata signature)
        external
    {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _only(id, a, Status.Challenged);
        _notAfter(a.deadline);
        if (heartbeat.challenge != a.nonce) revert Escrow_BadNonce(heartbeat.challenge);
        _checkHeartbeat(terms, id, heartbeat, signature);

        _bondToProvider(terms, a);
        a.status = Status.Open;
        a.deadline = uint40(block.timestamp + terms.timing.window);
        _store(id, a);
        emit Answered(id, heartbeat.sequence, a.deadline);
    }

    function slash(Terms calldata terms) external {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _only(id, a, Status.Challenged);
        _notBefore(uint256(a.deadline) + 1);
        _closeSlashed(terms, id, a, terms.money.slashBps);
    }

    function slashEquivocation(
        Terms calldata terms,
        Heartbeat calldata first,
        bytes calldata firstSignature,
        Heartbeat calldata second,
        bytes calldata secondSignature
    ) external {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        bytes32 digest = _checkHeartbeat(terms, id, first, firstSignature);
        if (
            first.sequence != second.sequence || terms.money.equivocationBps == 0
                || digest == _checkHeartbeat(terms, id, second, secondSignature)
        ) revert Escrow_NotEquivocation();
        _closeSlashed(terms, id, a, terms.money.equivocationBps);
    }

    // -------------------------------------------------------------------------------- the arbiter

    function dispute(Terms calldata terms) external {
        _onlyRequester(terms);
        _term(terms.parties.arbiter != address(0), "arbiter");
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _contestableFrom(id, a, terms.timing.window);
        _lockBond(terms, id, a);
        a.status = Status.Disputed;
        a.deadline = uint40(block.timestamp + terms.timing.arbiterWindow);
        _store(id, a);
        emit Disputed(id, a.deadline);
    }

    function rule(Terms calldata terms, uint96 slashed) external {
        if (msg.sender != terms.parties.arbiter) revert Escrow_NotParty(msg.sender);
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _only(id, a, Status.Disputed);
        _notAfter(a.deadline);
        _checkRange(slashed, 0, terms.money.collateral);
        emit Ruled(id, slashed);
        if (slashed == 0) _bondToProvider(terms, a);
        _close(terms, id, a, slashed == 0 ? Status.Closed : Status.Slashed, slashed);
    }

    // -------------------------------------------------------------------------------------- views

    function balance(address token, address account)
        external
        view
        returns (uint256 free, uint256 staked, uint256 thawing, uint256 thawedAt)
    {
        Account memory balances = _accounts[token][account];
        Thaw memory thaw = _thaws[token][account];
        return (balances.free, balances.stake, thaw.amount, thaw.thawedAt);
    }

    function authorisation(address account, address operator, address token)
        external
        view
        returns (uint128 allowance, uint40 expiry)
    {
        Authorisation memory given = _authorisations[account][operator][token];
        return (given.allowance, given.expiry);
    }

    function unitsTaken(address provider) external view returns (uint256) {
        return _taken(provider);
    }

    function agreement(bytes32 id) external view returns (Agreement memory) {
        return _load(id);
    }

    function limits() external view returns (Limits memory) {
        return Limits(
            MIN_WINDOW, MAX_WINDOW, MIN_CLAIM_WINDOW, MAX_CLAIM_WINDOW, MAX_DURATION, THAW_PERIOD
        );
    }

    function accrued(Terms calldata terms, uint256 durationS) public pure returns (uint256) {
        return uint256(terms.money.pricePerHour) * _popcount(terms.units) * durationS / 3600;
    }

    function agreementId(Terms calldata terms) public view returns (bytes32) {
        uint256 at;
        assembly ("memory-safe") {
            at := terms
        }
        bytes32 parties = _hashWords(PARTIES_TYPEHASH, at, 6);
        bytes32 money = _hashWords(MONEY_TYPEHASH, at + 6 * 32, 7);
        bytes32 timing = _hashWords(TIMING_TYPEHASH, at + 13 * 32, 7);
        return _typed(
            keccak256(
                abi.encode(
                    TERMS_TYPEHASH, parties, money, timing, terms.units, terms.job, terms.salt
                )
            )
        );
    }

    function voucherDigest(Voucher calldata voucher) public view returns (bytes32) {
        uint256 at;
        assembly ("memory-safe") {
            at := voucher
        }
        return _digest(VOUCHER_TYPEHASH, at, 4);
    }

    function heartbeatDigest(Heartbeat calldata heartbeat) public view returns (bytes32) {
        uint256 at;
        assembly ("memory-safe") {
            at := heartbeat
        }
        return _digest(HEARTBEAT_TYPEHASH, at, 6);
    }

    function settlementDigest(Settlement calldata settlement) public view returns (bytes32) {
        uint256 at;
        assembly ("memory-safe") {
            at := settlement
        }
        return _digest(SETTLEMENT_TYPEHASH, at, 3);
    }

    function extensionDigest(Extension calldata extension) public view returns (bytes32) {
        uint256 at;
        assembly ("memory-safe") {
            at := extension
        }
        return _digest(EXTENSION_TYPEHASH, at, 3);
    }

    function domainSeparator() public view returns (bytes32) {
        // A fork of the chain has another id, and there nothing signed for this one is good.
        return block.chainid == CHAIN_ID ? DOMAIN_SEPARATOR : _domain();
    }

    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        )
    {
        return (hex"0f", "gridsouk", "1", block.chainid, address(this), salt, extensions);
    }

    // ----------------------------------------------------------------------- steps of the above

    function _open(
        Terms calldata terms,
        bytes calldata requesterSignature,
        bytes calldata providerSignature
    ) private returns (bytes32 id) {
        _checkTerms(terms);
        id = agreementId(terms);
        Agreement memory a = _load(id);
        _only(id, a, Status.None);

        Parties calldata parties = terms.parties;
        Money calldata money = terms.money;
        uint256 locked = uint256(money.deposit) + money.bond;
        _spend(
            parties.requester,
            parties.requesterSigner,
            parties.token,
            locked,
            id,
            requesterSignature
        );
        _spend(
            parties.provider,
            parties.providerSigner,
            parties.token,
            money.collateral,
            id,
            providerSignature
        );

        _takeUnits(parties.provider, terms.units);
        _takeFree(parties.token, parties.requester, locked);
        _takeStake(parties.token, parties.provider, money.collateral);
        a.status = Status.Open;
        a.openedAt = uint40(block.timestamp);
        a.deadline = uint40(block.timestamp + terms.timing.startGrace);
        a.bonded = true;
        _store(id, a);
        _emitOpened(id, terms);
    }

    function _emitOpened(bytes32 id, Terms calldata terms) private {
        emit Opened(
            id,
            terms.parties.requester,
            terms.parties.provider,
            terms.parties.token,
            terms.money.deposit,
            terms.money.collateral,
            terms.money.bond,
            terms.units,
            block.timestamp + terms.timing.duration,
            terms.job
        );
    }

    function _checkTerms(Terms calldata terms) private view {
        Parties calldata parties = terms.parties;
        Money calldata money = terms.money;
        Timing calldata timing = terms.timing;
        if (block.timestamp > timing.openBy) revert Escrow_OpenByPassed(timing.openBy);
        _term(
            parties.requester != address(0) && parties.provider != address(0)
                && parties.requesterSigner != address(0) && parties.providerSigner != address(0)
                && parties.requester != parties.provider,
            "parties"
        );
        _term(
            money.slashBps <= BPS && money.victimShareBps <= BPS && money.equivocationBps <= BPS,
            "bps"
        );
        _term(timing.duration != 0 && timing.duration <= MAX_DURATION, "duration");
        _term(timing.startGrace <= MAX_DURATION, "startGrace");
        _term(timing.window >= MIN_WINDOW && timing.window <= MAX_WINDOW, "window");
        _term(
            timing.claimWindow >= MIN_CLAIM_WINDOW && timing.claimWindow <= MAX_CLAIM_WINDOW,
            "claimWindow"
        );
        _term(
            parties.arbiter == address(0)
                || (timing.arbiterWindow >= MIN_WINDOW && timing.arbiterWindow <= MAX_CLAIM_WINDOW),
            "arbiterWindow"
        );
        _term(terms.units != 0, "units");
    }

    function _term(bool holds, bytes32 field) private pure {
        if (!holds) revert Escrow_BadTerms(field);
    }

    /// @dev Takes the voucher's money and returns whether that changed anything.
    function _takeVoucher(
        Terms calldata terms,
        bytes32 id,
        Agreement memory a,
        Voucher calldata voucher,
        bytes calldata signature
    ) private returns (bool) {
        _names(voucher.agreement, id);
        _signedByHot(
            terms.parties.requesterSigner,
            terms.parties.requester,
            voucherDigest(voucher),
            signature
        );
        uint256 vouched = Math.min(voucher.amount, _payable(terms, a));
        if (vouched > a.paid) {
            _pay(terms, id, a, vouched, 0);
            return true;
        }
        if (vouched > a.paid - a.offline) {
            _pay(terms, id, a, a.paid, a.paid - vouched);
            return true;
        }
        return false;
    }

    /// @dev Raises what is paid to `paid`, of which `offline` rests on heartbeats. Stores only the
    /// second slot; the caller stores the first.
    function _pay(
        Terms calldata terms,
        bytes32 id,
        Agreement memory a,
        uint256 paid,
        uint256 offline
    ) private {
        uint128 step = (paid - a.paid).toUint128();
        a.paid = uint96(paid); // at most the deposit, which fits
        if (a.offline != offline) {
            a.offline = uint96(offline); // at most paid
            _storeExtra(id, a);
        }
        _accounts[terms.parties.token][terms.parties.provider].free += step;
        emit Claimed(id, a.paid, a.offline);
    }

    /// @dev The most that may have been paid by now: never above the deposit, nor what has accrued.
    function _payable(Terms calldata terms, Agreement memory a) private view returns (uint256) {
        uint256 elapsed = Math.min(block.timestamp, _end(terms, a)) - a.openedAt;
        return Math.min(uint256(terms.money.deposit) + a.extraDeposit, accrued(terms, elapsed));
    }

    function _end(Terms calldata terms, Agreement memory a) private pure returns (uint256) {
        return uint256(a.openedAt) + terms.timing.duration + a.extraDuration;
    }

    function _closeByProvider(Terms calldata terms, bytes32 id, Agreement memory a) private {
        Status status = a.status;
        bool closing = status == Status.ClosingByProvider;
        if (status != Status.Open && status != Status.ClosingByRequester && !closing) {
            _wrongStatus(id, a);
        }
        bool contestable = terms.parties.arbiter != address(0) || block.timestamp < _end(terms, a);
        if (
            status == Status.ClosingByRequester || !contestable
                || (closing && block.timestamp > a.deadline)
        ) {
            _close(terms, id, a, Status.Closed, 0);
        } else {
            if (closing) _notBefore(uint256(a.deadline) + 1);
            // From the end of the grace or cooldown on, so that closing dodges no challenge.
            a.status = Status.ClosingByProvider;
            a.deadline = uint40(Math.max(block.timestamp, a.deadline) + terms.timing.window);
            _store(id, a);
            emit Closing(id, terms.parties.provider, a.deadline);
        }
    }

    /// @dev abi.encodeCall(settle, (terms, voucher, signature)), copied instead of re-encoded: a
    /// third of the gas. The head has 23 + 4 words and the offset of the signature.
    function _settleCall(Terms calldata terms, Voucher calldata voucher, bytes calldata signature)
        private
        pure
        returns (bytes memory)
    {
        bytes calldata head;
        bytes calldata middle;
        assembly ("memory-safe") {
            head.offset := terms
            head.length := 736
            middle.offset := voucher
            middle.length := 128
        }
        return abi.encodePacked(
            IEscrow.settle.selector, head, middle, uint256(896), signature.length, signature
        );
    }

    /// @dev The end of every agreement: all that it locked goes somewhere, its units are free.
    function _close(
        Terms calldata terms,
        bytes32 id,
        Agreement memory a,
        Status status,
        uint256 slashed
    ) private {
        Money calldata money = terms.money;
        uint256 refund = uint256(money.deposit) + a.extraDeposit - a.paid;
        uint256 toRequester = refund;
        if (a.bonded) {
            toRequester += money.bond;
            a.bonded = false;
        }
        a.status = status;
        _store(id, a);
        _freeUnits(terms.parties.provider, terms.units);

        address token = terms.parties.token;
        if (status == Status.Slashed) {
            uint256 toVictim = _share(slashed, money.victimShareBps);
            toRequester += toVictim;
            if (slashed != toVictim) burned[token] += slashed - toVictim;
            emit Slashed(id, slashed, toVictim, slashed - toVictim);
        }
        _accounts[token][terms.parties.requester].free += toRequester.toUint128();
        _accounts[token][terms.parties
            .provider].stake += (uint256(money.collateral) - slashed).toUint128();
        emit Closed(id, a.paid, refund);
    }

    function _closeSlashed(Terms calldata terms, bytes32 id, Agreement memory a, uint256 bps)
        private
    {
        _close(terms, id, a, Status.Slashed, _share(terms.money.collateral, bps));
    }

    /// @dev When a challenge is next allowed. Reverts unless the provider can still be contested.
    function _contestableFrom(bytes32 id, Agreement memory a, uint256 window)
        private
        view
        returns (uint256)
    {
        if (a.status == Status.Open) return a.deadline;
        _only(id, a, Status.ClosingByProvider);
        _notAfter(a.deadline);
        return a.deadline - window;
    }

    /// @dev A spent bond is replaced out of the requester's free balance, by the wallet itself or
    /// within its operator's allowance.
    function _lockBond(Terms calldata terms, bytes32 id, Agreement memory a) private {
        if (a.bonded) return;
        Parties calldata parties = terms.parties;
        uint96 bond = terms.money.bond;
        if (msg.sender != parties.requester) {
            _useAllowance(parties.requester, msg.sender, parties.token, bond);
        }
        _takeFree(parties.token, parties.requester, bond);
        a.bonded = true;
        emit Bonded(id, bond);
    }

    function _bondToProvider(Terms calldata terms, Agreement memory a) private {
        a.bonded = false;
        _accounts[terms.parties.token][terms.parties.provider].free += terms.money.bond;
    }

    // ------------------------------------------------------------------------- who may, who signed

    function _isRequester(Terms calldata terms) private view returns (bool) {
        return msg.sender == terms.parties.requester || msg.sender == terms.parties.requesterSigner;
    }

    function _isProvider(Terms calldata terms) private view returns (bool) {
        return msg.sender == terms.parties.provider || msg.sender == terms.parties.providerSigner;
    }

    function _onlyRequester(Terms calldata terms) private view {
        if (!_isRequester(terms)) revert Escrow_NotParty(msg.sender);
    }

    function _onlyProvider(Terms calldata terms) private view {
        if (!_isProvider(terms)) revert Escrow_NotParty(msg.sender);
    }

    /// @dev Zero if the signature is no good, which no party can be.
    function _signer(bytes32 digest, bytes calldata signature) private view returns (address by) {
        if (signature.length == 0) return msg.sender;
        (by,,) = ECDSA.tryRecoverCalldata(digest, signature);
    }

    /// @dev For vouchers and heartbeats: the hot key, or the wallet as a plain account.
    function _signedByHot(address hot, address wallet, bytes32 digest, bytes calldata signature)
        private
        view
    {
        address by = _signer(digest, signature);
        if (by != hot && by != wallet) revert Escrow_BadSignature(hot);
    }

    /// @dev For settlements and extensions: the wallet (true) or its hot key (false).
    function _signedByEither(address wallet, address hot, bytes32 digest, bytes calldata signature)
        private
        view
        returns (bool byWallet)
    {
        address by = _signer(digest, signature);
        if (by == wallet || _signedByContract(wallet, digest, signature)) return true;
        if (by != hot) revert Escrow_BadSignature(wallet);
    }

    /// @dev For locking money: the wallet, or its hot key within the allowance the wallet gave it.
    function _spend(
        address wallet,
        address hot,
        address token,
        uint256 amount,
        bytes32 digest,
        bytes calldata signature
    ) private {
        if (!_signedByEither(wallet, hot, digest, signature)) {
            _useAllowance(wallet, hot, token, amount);
        }
    }

    function _signedByContract(address wallet, bytes32 digest, bytes calldata signature)
        private
        view
        returns (bool)
    {
        return signature.length != 0 && wallet.code.length != 0
            && SignatureChecker.isValidERC1271SignatureNowCalldata(wallet, digest, signature);
    }

    function _useAllowance(address wallet, address operator, address token, uint256 amount)
        private
    {
        Authorisation storage given = _authorisations[wallet][operator][token];
        Authorisation memory now_ = given;
        if (now_.expiry < block.timestamp) now_.allowance = 0;
        if (now_.expiry < block.timestamp || now_.allowance < amount) {
            revert Escrow_NotAuthorised(wallet, operator, now_.allowance, amount);
        }
        if (now_.allowance != type(uint128).max) {
            given.allowance = now_.allowance - uint128(amount); // amount <= allowance
        }
        emit AllowanceUsed(wallet, operator, token, amount);
    }

    function _checkHeartbeat(
        Terms calldata terms,
        bytes32 id,
        Heartbeat calldata heartbeat,
        bytes calldata signature
    ) private view returns (bytes32 digest) {
        _names(heartbeat.agreement, id);
        digest = heartbeatDigest(heartbeat);
        _signedByHot(terms.parties.providerSigner, terms.parties.provider, digest, signature);
    }

    // ------------------------------------------------------------------------------------- checks

    function _only(bytes32 id, Agreement memory a, Status status) private pure {
        if (a.status != status) _wrongStatus(id, a);
    }

    function _wrongStatus(bytes32 id, Agreement memory a) private pure {
        revert Escrow_WrongStatus(id, a.status);
    }

    function _names(bytes32 given, bytes32 id) private pure {
        if (given != id) revert Escrow_WrongAgreement(id, given);
    }

    function _notBefore(uint256 first) private view {
        if (block.timestamp < first) revert Escrow_TooEarly(first);
    }

    function _notAfter(uint256 last) private view {
        if (block.timestamp > last) revert Escrow_TooLate(last);
    }

    function _notZero(uint256 amount) private pure {
        if (amount == 0) revert Escrow_ZeroAmount();
    }

    function _checkRange(uint256 amount, uint256 min, uint256 max) private pure {
        if (amount < min || amount > max) revert Escrow_AmountOutOfRange(amount, min, max);
    }

    // ----------------------------------------------------------------------- ledger, units, slots

    function _deposit(address token, address account, uint256 amount) private {
        if (token == address(0)) revert Escrow_NativeToken();
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = IERC20(token).balanceOf(address(this)) - before;
        if (received != amount) revert Escrow_WrongAmountReceived(token, received, amount);
        _credit(token, account, amount);
    }

    function _credit(address token, address account, uint256 amount) private {
        _notZero(amount);
        _accounts[token][account].free += amount.toUint128();
        emit Deposited(token, account, msg.sender, amount);
    }

    function _takeFree(address token, address account, uint256 amount) private {
        uint256 free = _accounts[token][account].free;
        if (free < amount) revert Escrow_InsufficientFree(token, account, free, amount);
        _accounts[token][account].free = uint128(free - amount); // falls, so it still fits
    }

    function _takeStake(address token, address account, uint256 amount) private {
        uint256 staked = _accounts[token][account].stake;
        if (staked < amount) revert Escrow_InsufficientStake(token, account, staked, amount);
        _accounts[token][account].stake = uint128(staked - amount); // falls, so it still fits
    }

    uint256 private constant BIT_255 = 1 << 255;

    function _taken(address provider) private view returns (uint256) {
        return (_units[provider] & ~BIT_255) | (_unit255[provider] ? BIT_255 : 0);
    }

    function _takeUnits(address provider, uint256 units) private {
        uint256 low = _units[provider];
        uint256 taken = low & units & ~BIT_255;
        if (units & BIT_255 != 0) {
            if (_unit255[provider]) taken |= BIT_255;
            _unit255[provider] = true;
        }
        if (taken != 0) revert Escrow_UnitsTaken(provider, taken);
        _units[provider] = low | units | BIT_255;
    }

    function _freeUnits(address provider, uint256 units) private {
        if (units & BIT_255 != 0) _unit255[provider] = false;
        _units[provider] = (_units[provider] & ~units) | BIT_255;
    }

    /// @dev The word, from the low end: status 8, openedAt 40, deadline 40, paid 96, nonce 48,
    /// bonded 1, extended 1.
    function _load(bytes32 id) private view returns (Agreement memory a) {
        uint256 word = _agreements[id];
        a.status = Status(uint8(word));
        a.openedAt = uint40(word >> 8);
        a.deadline = uint40(word >> 48);
        a.paid = uint96(word >> 88);
        a.nonce = uint48(word >> 184);
        a.bonded = (word >> 232) & 1 != 0;
        if ((word >> 233) & 1 != 0) {
            Extra memory extra = _extras[id];
            a.extraDeposit = extra.deposit;
            a.extraDuration = extra.duration;
            a.offline = extra.offline;
        }
    }

    function _loadLive(Terms calldata terms) private view returns (bytes32 id, Agreement memory a) {
        id = agreementId(terms);
        a = _load(id);
        if (a.status == Status.None || a.status >= Status.Closed) {
            _wrongStatus(id, a);
        }
    }

    function _store(bytes32 id, Agreement memory a) private {
        uint256 extended = a.extraDeposit != 0 || a.extraDuration != 0 || a.offline != 0 ? 1 : 0;
        _agreements[id] = uint256(a.status) | (uint256(a.openedAt) << 8)
            | (uint256(a.deadline) << 48) | (uint256(a.paid) << 88) | (uint256(a.nonce) << 184)
            | (a.bonded ? 1 << 232 : 0) | (extended << 233);
    }

    /// @dev Whole, so that a slot left behind when the flag fell to zero is never half read.
    function _storeExtra(bytes32 id, Agreement memory a) private {
        _extras[id] = Extra(a.extraDeposit, a.extraDuration, a.offline);
    }

    // ------------------------------------------------------------------------------------- hashing

    /// @dev Our own lines instead of OpenZeppelin's EIP712: with two literals for a name and a
    /// version, 1 kB less code.
    function _domain() private view returns (bytes32) {
        return keccak256(
            abi.encode(
                DOMAIN_TYPEHASH, keccak256("gridsouk"), keccak256("1"), block.chainid, address(this)
            )
        );
    }

    function _typed(bytes32 structHash) private view returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(domainSeparator(), structHash);
    }

    function _digest(bytes32 typehash, uint256 at, uint256 words) private view returns (bytes32) {
        return _typed(_hashWords(typehash, at, words));
    }

    /// @dev hashStruct of EIP-712 for a struct of `words` value types that lies at `at` in calldata:
    /// the ABI encoding of such a struct is its encodeData. Padding that is not zero gives a digest
    /// nobody signed, and reverts where the field is read.
    function _hashWords(bytes32 typehash, uint256 at, uint256 words)
        private
        pure
        returns (bytes32 hash)
    {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, typehash)
            calldatacopy(add(free, 0x20), at, shl(5, words))
            hash := keccak256(free, add(0x20, shl(5, words)))
        }
    }

    // ---------------------------------------------------------------------------------- arithmetic

    function _share(uint256 amount, uint256 bps) private pure returns (uint256) {
        return amount * bps / BPS; // rounds down: for the provider, then for the burn
    }

    function _stepUp(uint256 total, uint256 now_, uint256 max) private pure returns (uint256) {
        _checkRange(total, now_, max);
        return total - now_;
    }

    /// @dev Counts set bits: pairs, nibbles, bytes, then the bytes' sum by one multiplication per
    /// half, because a sum of 256 does not fit in a byte.
    function _popcount(uint256 x) private pure returns (uint256) {
        unchecked {
            x -= (x >> 1) & 0x5555555555555555555555555555555555555555555555555555555555555555;
            x = (x & 0x3333333333333333333333333333333333333333333333333333333333333333)
                + ((x >> 2) & 0x3333333333333333333333333333333333333333333333333333333333333333);
            x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f;
            x = (x & 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff)
                + ((x >> 8) & 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff);
            return (x * 0x0001000100010001000100010001000100010001000100010001000100010001) >> 240;
        }
    }
}
